"""A piece of work for the engine: a prefix to build on, rows to evaluate, and what to do with their logits."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from services.engine.runtime.interface import Logits

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Prefix:
    """The committed sequence that work builds on: a cached part, named by its digest, and the tokens that follow it."""

    session_id: str
    cached_length: int
    cached_digest: bytes
    tokens: Sequence[int]

    @property
    def length(self) -> int:
        """Number of tokens of the whole sequence."""
        return self.cached_length + len(self.tokens)


@dataclass(frozen=True)
class Miss:
    """The engine does not hold the prefix; this is what it holds."""

    held_length: int
    held_digest: bytes


@dataclass(frozen=True)
class More:
    """Evaluate these tokens next, with logits for the last one."""

    tokens: Sequence[int]


@dataclass(frozen=True)
class Finished(Generic[ResultT]):
    """The work is done: the caller gets `result`, and `held_length` tokens of the sequence stay in the cache.

    `num_tokens` of it are new: how much the work was worth.
    """

    held_length: int
    result: ResultT
    num_tokens: int = 1


Outcome: TypeAlias = Finished[ResultT] | Miss


@dataclass
class WorkTimings:
    """Where the time of a piece of work went, in seconds of `time.perf_counter`."""

    submitted_s: float = field(default_factory=time.perf_counter)
    started_s: float = 0.0
    finished_s: float = 0.0
    decode_s: float = 0.0
    num_decodes: int = 0
    batch_rows: int = 0


class Work(ABC, Generic[ResultT]):
    """One request in the engine. `next_step` runs in the engine's thread and must not block.

    Attributes:
        waits_for_slot: whether to queue where every slot is needed by others, or to be refused at once.
        timings: where its time went, known in full once there is an outcome.
    """

    waits_for_slot = True

    def __init__(
        self, prefix: Prefix, rows_after_prefix: Sequence[int] = (), *, deadline_s: float | None = None
    ) -> None:
        """Ask for logits of the prefix's last token and of each of `rows_after_prefix`.

        `deadline_s` is in seconds of `time.perf_counter`.
        """
        self.prefix = prefix
        self.rows_after_prefix = rows_after_prefix
        self.deadline_s = deadline_s
        self.is_cancelled = False
        self.timings = WorkTimings()
        # The engine's thread hands over what came of it, or why nothing did.
        self.deliver: Callable[[Outcome[ResultT] | Exception], object] = lambda answer: None

    @abstractmethod
    def next_step(self, logits: Logits, held: Sequence[int]) -> More | Finished[ResultT]:
        """Say what follows from the logits [rows asked for, vocabulary] and the sequence up to the last of these rows.

        Both are valid only during the call.
        """
