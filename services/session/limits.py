"""How much a service takes: as it describes itself, or less where it refuses more."""

from typing import Self

from outrider.v1 import common_pb2
from services.frame.rpc.errors import ServiceError

_DRAFT_TOO_LONG, _CONTEXT_TOO_LONG = "DRAFT_TOO_LONG", "CONTEXT_TOO_LONG"


class Limits:
    """Most draft tokens of one request, and most tokens of a sequence."""

    def __init__(self, max_draft_tokens: int = 0, context_length: int = 0) -> None:
        self.max_draft_tokens = max_draft_tokens
        self.context_length = context_length

    @classmethod
    def of(cls, model: common_pb2.ModelInfo) -> Self:
        """Return those that a service tells of itself."""
        return cls(model.max_draft_tokens, model.context_length)

    def learn(self, error: ServiceError) -> bool:
        """Lower a limit that an error names. Return whether it did, so that a request within the limits may pass."""
        most = error.metadata.get("most", "")
        if not most.isdecimal():
            return False
        if error.reason == _DRAFT_TOO_LONG and int(most) < self.max_draft_tokens:
            self.max_draft_tokens = int(most)
        elif error.reason == _CONTEXT_TOO_LONG and int(most) < self.context_length:
            self.context_length = int(most)
        else:
            return False
        return True
