"""The two models that are measured, and how much is measured of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.engine.model import Model
from services.engine.runtime import LlamaRuntime, RuntimeOptions


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
    num_headers: int = 200
    header_prompt_tokens: int = 512
    header_tokens: int = 96
    timed_tokens: int = 128
    num_threads: int = 0
    """0 takes all cores this process may use."""
    seed: int = 1


class Pair:
    """A target and its draft, loaded. Use as a context manager.

    Raises ModelLoadError where a model cannot be loaded, PairError where the two have different tokenizers.
    """

    def __init__(self, target: Path, draft: Path, *, num_threads: int) -> None:
        self._num_threads = num_threads
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
    def runtime(self, model: Model, *, context: int, num_slots: int = 1) -> Iterator[LlamaRuntime]:
        """A context of `num_slots` streams: each row costs the attention of its own sequence only."""
        options = RuntimeOptions(
            num_slots=num_slots,
            context_length=context,
            max_batch_rows=512,
            num_threads=self._num_threads,
            unified_cache=False,
        )
        runtime = LlamaRuntime(model, options)
        try:
            yield runtime
        finally:
            runtime.close()
