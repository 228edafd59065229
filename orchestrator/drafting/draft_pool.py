"""Several draft services as one drafter."""

from dataclasses import replace

from orchestrator.drafting.drafter import NOBODY, Draft, FirstDrafter, Wanted
from services.session.sequence import TokenSequence


class DraftPool(FirstDrafter):
    """One request's sessions with all draft services, in the order of the services.

    The one that is wanted drafts, else the first that tries. A session begins with the first draft that is wanted of
    it, and reads what it lacks whenever it is its turn again.
    """

    @property
    def problem(self) -> str:
        """The first of theirs, where every service has one."""
        problems = [session.problem for session in self._drafters]
        return problems[0] if all(problems) else ""

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return the draft of the service that is wanted. Another one takes its place where it does not try."""
        others = (service for service in range(len(self._drafters)) if service != wanted.service)
        for service in (wanted.service, *others):
            draft = await self._drafters[service].propose(sequence, wanted)
            if draft.drafter != NOBODY:
                return replace(draft, service=service)
        return Draft()
