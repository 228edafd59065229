"""Several draft services as one drafter."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.drafting.drafter import NOBODY, Draft, Drafter, Wanted
from services.session.sequence import TokenSequence


class DraftPool:
    """One request's sessions with all draft services. The one that is wanted drafts, else the first that tries.

    A session begins with the first draft that is wanted of it, and reads what it lacks whenever it is its turn again.
    """

    def __init__(self, sessions: Sequence[Drafter]) -> None:
        """`sessions` are in the order of the services, one at least."""
        self._sessions = sessions

    @property
    def num_resyncs(self) -> int:
        """The sum of theirs."""
        return sum(session.num_resyncs for session in self._sessions)

    @property
    def num_fallbacks(self) -> int:
        """The sum of theirs."""
        return sum(session.num_fallbacks for session in self._sessions)

    @property
    def problem(self) -> str:
        """The first of theirs, where every service has one."""
        problems = [session.problem for session in self._sessions]
        return problems[0] if all(problems) else ""

    def room(self, length: int) -> int:
        """Return the most that any of them proposes."""
        return max(session.room(length) for session in self._sessions)

    async def propose(self, sequence: TokenSequence, wanted: Wanted) -> Draft:
        """Return the draft of the service that is wanted. Another one takes its place where it does not try."""
        others = (service for service in range(len(self._sessions)) if service != wanted.service)
        for service in (wanted.service, *others):
            session = self._sessions[service]
            number = min(wanted.num_draft_tokens, session.room(len(sequence)))
            draft = await session.propose(sequence, replace(wanted, num_draft_tokens=number))
            if draft.drafter != NOBODY:
                return replace(draft, service=service)
        return Draft()

    async def close(self) -> None:
        """Close all sessions, those that were opened."""
        for session in self._sessions:
            await session.close()
