"""The two models that are measured, and how much is measured of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from services.engine.control_groups import usable_cores
from services.engine.model.model import Model
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions

T = TypeVar("T")
R = TypeVar("R")


class PairError(ValueError):
    """The two models or the texts do not allow a measurement; the message is one sentence for a person."""


@dataclass(frozen=True)
class Settings:
    """How much is measured. Lengths are in tokens."""

    num_files: int | None = None
    """Files whose bits per byte are measured; None for all."""
    window: int = 2048
    overlap: int = 512
    num_texts: int = 96
    """Places in held-out files from which text is generated."""
    prompt_tokens: int = 256
    acceptance_tokens: int = 128
    num_draft_tokens: tuple[int, ...] = (4, 8)
    repetition_tokens: int = 512
    num_headers: int = 160
    header_prompt_tokens: int = 256
    header_tokens: int = 96
    timed_tokens: int = 128
    seed: int = 1


class Pair:
    """A target and its draft, loaded. Use as a context manager.

    `num_threads` 0 takes all cores this process may use. Raises ModelLoadError where a model cannot be loaded,
    PairError where the two have different tokenizers.
    """

    def __init__(self, target: Path, draft: Path, *, num_threads: int) -> None:
        self.num_threads = num_threads or usable_cores()
        with ExitStack() as opened:
            self.target = Model(target)
            opened.callback(self.target.close)
            self.draft = Model(draft)
            opened.callback(self.draft.close)
            if self.target.vocabulary.fingerprint != self.draft.vocabulary.fingerprint:
                raise PairError(f"{target} and {draft} have different tokenizers")
            if self.target.vocabulary.bos is None:
                raise PairError(f"{target} has no token that begins a text")
            self.bos: int = self.target.vocabulary.bos
            self._opened = opened.pop_all()

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._opened.close()

    def tokens(self, text: str) -> list[int]:
        """The tokens of a text, without BOS."""
        return self.target.vocabulary.tokenize(text, add_bos=False, parse_special=False)

    def text(self, tokens: list[int]) -> str:
        """The text that tokens stand for; bytes that are no UTF-8 become U+FFFD."""
        return self.target.vocabulary.detokenize(tokens).decode(errors="replace")

    @contextmanager
    def runtime(self, model: Model, *, context: int, num_threads: int, num_slots: int = 1) -> Iterator[LlamaRuntime]:
        """A context of `num_slots` streams: each row costs the attention of its own sequence only."""
        options = RuntimeOptions(
            num_slots=num_slots,
            context_length=context,
            max_batch_rows=512,
            num_threads=num_threads,
            flash_attention=True,
        )
        runtime = LlamaRuntime(model, options)
        try:
            yield runtime
        finally:
            runtime.close()

    def over(
        self,
        model: Model,
        items: Iterable[T],
        work: Callable[[LlamaRuntime, T], R],
        *,
        context: int,
        num_slots: int = 1,
        on_done: Callable[[], None],
    ) -> list[R]:
        """`work` done on every item, results in order, each thread with a context of its own.

        Threads that share a context meet at every operation and lose most of their time once another program takes a
        core. `on_done` is called in this thread after each item.
        """
        with ExitStack() as opened:
            free: SimpleQueue[LlamaRuntime] = SimpleQueue()
            for _ in range(self.num_threads):
                opened_one = self.runtime(model, context=context, num_threads=1, num_slots=num_slots)
                free.put(opened.enter_context(opened_one))

            def work_on(item: T) -> R:
                runtime = free.get()
                try:
                    return work(runtime, item)
                finally:
                    free.put(runtime)

            executor = opened.enter_context(ThreadPoolExecutor(self.num_threads))
            opened.callback(executor.shutdown, cancel_futures=True)
            futures = [executor.submit(work_on, item) for item in items]
            for future in as_completed(futures):
                future.result()
                on_done()
            return [future.result() for future in futures]
