"""The probe, on runtimes that are exact or not."""

from services.engine.startup.probe import is_exact
from tests.unit.engine.fakes import FakeRuntime

MAX_DRAFT_TOKENS = 7


class CopyingRuntime(FakeRuntime):
    """Exact but for what is evaluated after a copy, where so many of its tokens are lost."""

    def __init__(self, num_lost: int) -> None:
        super().__init__(num_slots=6, context_length=512, max_batch_rows=1024)
        self.num_lost = num_lost
        self.copied: list[int] = []

    def copy(self, source: int, target: int, length: int) -> None:
        super().copy(source, target, length)
        self.copied.append(length)
        self.caches[target][: self.num_lost] = [0] * self.num_lost


def test_what_is_exact_passes_with_copies_of_short_and_long_beginnings() -> None:
    runtime = CopyingRuntime(num_lost=0)
    assert is_exact(runtime, MAX_DRAFT_TOKENS)
    assert not runtime.complaints
    assert min(runtime.copied) < 10
    assert max(runtime.copied) > 100


def test_copies_that_lose_something_are_found_out() -> None:
    assert not is_exact(CopyingRuntime(num_lost=1), MAX_DRAFT_TOKENS)
