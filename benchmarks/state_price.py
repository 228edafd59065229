"""What a model that keeps a recurrent state costs: tokens/s plain and drafted, exact off and on, for some streams.

`python benchmarks/state_price.py MODEL... [--streams 1 4 8] [--num-draft-tokens 0 3 7] [--json FILE]` drives the
engine's runtime as its scheduler does, without services. The drafter is scripted: its tokens are accepted as often as
`--acceptance` says, each as likely as the others, and cost nothing. All settings take turns in one process; the figures
are medians of the turns, and ratios are of settings in the same turn, with the first of `--num-snapshots`.
`benchmarks/state_models.py` writes the models.

Where others use the cores too, `--clock cpu --threads 1` counts the time that this process computed.
"""

import argparse
import itertools
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from services.engine.model.model import Model
from services.engine.runtime.checkpoints import CheckpointRuntime
from services.engine.runtime.interface import Runtime, Segment
from services.engine.runtime.padding import ExactMode, Exactness
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.startup.exactness import candidates, runtime_of
from services.engine.startup.probe import is_exact

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
_NUM_PROMPT_TOKENS = 12
# How many cycles plain decoding has for one with drafts: about as much time goes into both.
_PLAIN_CYCLES = 1.5


@dataclass(frozen=True)
class Setting:
    """What is measured in one go; 0 `num_draft_tokens` is plain decoding."""

    num_streams: int
    num_draft_tokens: int
    exact: str
    num_snapshots: int


@dataclass
class Bench:
    """Measures one model."""

    runtimes: dict[tuple[str, int], Runtime]
    acceptance: float
    num_cycles: int
    clock: Callable[[], float]
    rng: random.Random

    def tokens_per_s(self, setting: Setting) -> float:
        """Decode all streams side by side, and return the tokens per second of all of them together."""
        runtime = self.runtimes[setting.exact, setting.num_snapshots]
        held = [0] * setting.num_streams
        for slot in range(setting.num_streams):
            runtime.cut(slot, 0)
            prompt = _tokens(self.rng, runtime, _NUM_PROMPT_TOKENS)
            runtime.decode([Segment(slot, 0, prompt, 1)])
            held[slot] = len(prompt)
        num_cycles = round(self.num_cycles / setting.num_streams**0.5)
        if not setting.num_draft_tokens:
            num_cycles = round(_PLAIN_CYCLES * num_cycles)
        accepted = [self._accepted(num_cycles, setting.num_draft_tokens) for _ in held]
        began_s, num_before = self.clock(), sum(held)
        for cycle in range(num_cycles):
            self._cycle(runtime, held, [each[cycle] for each in accepted], setting.num_draft_tokens)
        return (sum(held) - num_before) / (self.clock() - began_s)

    def _cycle(self, runtime: Runtime, held: list[int], accepted: Sequence[int], num_draft_tokens: int) -> None:
        """Verify a draft of each stream, cut what is rejected."""
        num_rows = num_draft_tokens + 1
        segments = [
            Segment(slot, length, _tokens(self.rng, runtime, num_rows), num_rows, num_tentative=num_draft_tokens)
            for slot, length in enumerate(held)
        ]
        for group in runtime.group(segments):
            for logits in runtime.decode(group):
                logits.argmax(axis=1)
        for slot, num_accepted in enumerate(accepted):
            held[slot] += num_accepted + 1
            runtime.cut(slot, held[slot])

    def _accepted(self, num_cycles: int, num_draft_tokens: int) -> list[int]:
        """Return how many tokens are accepted in each cycle: as often as chance would, in a random order."""
        chances = [self.acceptance**count for count in range(1, num_draft_tokens + 1)]
        counts = [sum((cycle + 0.5) / num_cycles < chance for chance in chances) for cycle in range(num_cycles)]
        self.rng.shuffle(counts)
        return counts


def measure(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one model in all settings."""
    clock = CLOCKS[arguments.clock]
    model = Model(path)
    options = RuntimeOptions(
        num_slots=max(arguments.streams),
        context_length=512,
        max_batch_rows=512,
        num_threads=arguments.threads,
        checkpoint_bytes=1 << 28,
    )
    most_draft_tokens = max(arguments.num_draft_tokens)
    found: dict[str, Any] = {"model": path.name}
    exactness: dict[str, Exactness | None] = {"off": None}
    if "on" in arguments.exact:
        width = arguments.width or _width(model, options, most_draft_tokens)
        exactness["on"] = Exactness(ExactMode.ROW_MULTIPLE, width)
        found["width"] = width
    runtimes = {
        (name, count): runtime_of(model, replace(options, num_snapshots=count), exactness[name], most_draft_tokens)
        for name, count in itertools.product(arguments.exact, arguments.num_snapshots)
    }
    bench = Bench(runtimes, arguments.acceptance, arguments.cycles, clock, random.Random(0))
    cases = itertools.product(arguments.streams, arguments.num_draft_tokens, arguments.exact, arguments.num_snapshots)
    settings = [Setting(*case) for case in cases]
    rates: dict[Setting, list[float]] = {setting: [] for setting in settings}
    for turn in range(arguments.turns + 1):
        for setting in settings if turn else settings[:1]:  # the first brings the weights into memory
            rate = bench.tokens_per_s(setting)
            print(path.name, turn, setting, f"{rate:.2f}", file=sys.stderr, flush=True)
            if turn:
                rates[setting].append(rate)
    found["settings"] = [_line(setting, rates, arguments.num_snapshots[0]) for setting in settings]
    found |= _state_times(model, options, clock)
    for runtime in runtimes.values():
        runtime.close()
    model.close()
    return found


def _width(model: Model, options: RuntimeOptions, max_draft_tokens: int) -> int:
    """Return the first width that the service's own probe finds exact."""
    for exactness in candidates(max_draft_tokens, keeps_state=model.keeps_state):
        runtime = runtime_of(model, options, exactness, max_draft_tokens)
        try:
            if is_exact(runtime, max_draft_tokens):
                return exactness.width
        finally:
            runtime.close()
    raise SystemExit(f"no width is exact with {model.path}")


def _line(setting: Setting, rates: dict[Setting, list[float]], plain_snapshots: int) -> dict[str, Any]:
    plain = rates.get(Setting(setting.num_streams, 0, "off", plain_snapshots), rates[setting])
    ratios = [rate / other for rate, other in zip(rates[setting], plain, strict=True)]
    return {
        "streams": setting.num_streams,
        "num_draft_tokens": setting.num_draft_tokens,
        "exact": setting.exact,
        "num_snapshots": setting.num_snapshots,
        "tokens_per_s": round(statistics.median(rates[setting]), 2),
        "by_plain_off": round(statistics.median(ratios), 2),
        "least_and_most_by_plain_off": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def _state_times(model: Model, options: RuntimeOptions, clock: Callable[[], float]) -> dict[str, float]:
    """Return how large a state is, and what it takes to save one and to put it back."""
    runtime = LlamaRuntime(model, options)
    runtime.decode([Segment(0, 0, [2] * _NUM_PROMPT_TOKENS, 1)])
    times: dict[str, list[float]] = {"save_ms": [], "put_back_ms": []}
    for _ in range(12):
        began_s = clock()
        state = runtime.save(0)
        saved_s = clock()
        runtime.put_back(0, state, _NUM_PROMPT_TOKENS)
        times["save_ms"].append(1e3 * (saved_s - began_s))
        times["put_back_ms"].append(1e3 * (clock() - saved_s))
    runtime.close()
    medians = {name: round(statistics.median(values[2:]), 2) for name, values in times.items()}
    return {"state_mb": round(len(state) / 1e6, 2)} | medians


def crowd(path: Path, num_sessions: int, most_bytes: int, num_slots: int = 8) -> dict[str, Any]:
    """Let so many sessions come and go, each with two prompts and drafts after them; return the most bytes kept."""
    model = Model(path)
    options = RuntimeOptions(num_slots=num_slots, context_length=512, max_batch_rows=512, checkpoint_bytes=most_bytes)
    runtime = runtime_of(model, options, None, 3)
    assert isinstance(runtime, CheckpointRuntime), "the model keeps no state"
    rng = random.Random(0)
    seen = []
    for session in range(num_sessions):
        slot, length = session % num_slots, 0
        runtime.cut(slot, 0)
        for num_rows, num_tentative in [(rng.randint(70, 100), 0), (4, 3), (4, 3)] * 2:
            tokens = _tokens(rng, runtime, num_rows)
            runtime.decode([Segment(slot, length, tokens, 1 + num_tentative, num_tentative=num_tentative)])
            length += num_rows - rng.randint(0, num_tentative)
            runtime.cut(slot, length)
            seen.append(runtime.num_checkpoint_bytes)
    runtime.close()
    model.close()
    return {
        "sessions": num_sessions,
        "bound_bytes": most_bytes,
        "most_checkpoint_bytes": max(seen),
    }


def _tokens(rng: random.Random, runtime: Runtime, count: int) -> list[int]:
    return [rng.randrange(runtime.vocabulary_size) for _ in range(count)]


def main() -> None:
    """Measure as the command line says, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--num-draft-tokens", type=int, nargs="+", default=[0, 3, 7])
    parser.add_argument("--exact", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--num-snapshots", type=int, nargs="+", default=[0, 8], help="states kept of a decode's rows")
    parser.add_argument("--width", type=int, default=0, help="of exact on (default: the first that the probe finds)")
    parser.add_argument("--acceptance", type=float, default=0.8)
    parser.add_argument("--cycles", type=int, default=12, help="with one stream in a turn; fewer with more")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--sessions", type=int, default=0, help="so many sessions only, and what states they leave")
    parser.add_argument("--checkpoint-mb", type=int, default=256, help="for --sessions: the bound")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.sessions:
        for path in arguments.models:
            print(json.dumps({"model": path.name} | crowd(path, arguments.sessions, arguments.checkpoint_mb << 20)))
        return
    results = [measure(path, arguments) for path in arguments.models]
    how = {name: getattr(arguments, name) for name in ("acceptance", "cycles", "turns", "threads", "clock")}
    if arguments.json:
        arguments.json.write_text(json.dumps(how | {"models": results}, indent=1) + "\n")
    columns = ("streams", "num_draft_tokens", "exact", "num_snapshots", "tokens_per_s", "by_plain_off")
    print("| model |", " | ".join(name.replace("_", " ") for name in columns), "|\n|---" + "|---" * len(columns) + "|")
    for result in results:
        for line in result["settings"]:
            print(f"| {result['model']} |", " | ".join(str(line[column]) for column in columns), "|")


if __name__ == "__main__":
    main()
