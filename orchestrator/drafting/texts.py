"""Drafts that are read in texts: which of several there are, and when one goes before a model's. They take no time."""

from orchestrator.drafting.drafter import Draft, FirstDrafter, Wanted
from services.session.sequence import TokenSequence


class LongestMatchDrafter(FirstDrafter):
    """Takes each cycle's draft from the text that the last tokens match longest; of equal matches from the first."""

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return the draft after the longest match, or none."""
        drafts = [await drafter.propose(sequence, wanted) for drafter in self._drafters]
        return max(drafts, key=_match, default=Draft())


class BetterDrafter(FirstDrafter):
    """Goes before a model: it drafts where its draft is worth more than what the model is expected to bring."""

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return the draft of the first that tries, or none."""
        draft = await super().propose(sequence, wanted)
        return draft if draft.tokens and wanted.is_better(draft) else Draft()


def _match(draft: Draft) -> float:
    return draft.margins[0] if draft.margins else 0.0
