"""What can go wrong in the engine. `wire` translates what work fails with into gRPC statuses."""


class EngineError(Exception):
    """Base of all errors of the engine."""


class ModelLoadError(EngineError):
    """A model file is missing, corrupt, or of a kind that cannot be served; the message is one sentence."""


class DecodeError(EngineError):
    """llama.cpp could not evaluate a batch; every sequence of it was cut back to where it was."""


class TooLongError(EngineError):
    """A text, or its tokens, are more than was asked for at most; the message is how many there are."""

    def __init__(self, count: int) -> None:
        super().__init__(str(count))
        self.count = count


class QueueFullError(EngineError):
    """Too much work is waiting already."""


class SlotsTakenError(EngineError):
    """Every slot is needed by another session, and the work does not wait for one."""


class WorkTimeoutError(EngineError):
    """The deadline of a piece of work passed before it was finished."""


class WorkCancelledError(EngineError):
    """The caller gave a piece of work up."""


class EngineStoppedError(EngineError):
    """The engine is stopping, or a repeated fatal error ended it."""
