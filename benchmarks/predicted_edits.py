"""What a prediction is worth where files are edited: replays how a repository's files were changed.

`python benchmarks/predicted_edits.py [--checkout PATH] [--edits 100]` takes changed Python files out of the history of
a git checkout, tokenized by the bundled target's vocabulary. Each is generated anew, with the file as it was before in
the prompt and as the prediction: the target "says" the new file, in virtual time with measured costs of decodes; cycle,
drafters, length policy and what the target leaves out are the real ones. Prints a JSON line for each machine and
drafter: tokens per second over those of plain decoding, tokens and rows a cycle, and the share that was accepted.
"""

import argparse
import asyncio
import json
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from orchestrator.costs.costs_file import load_costs
from orchestrator.costs.model_costs import ModelCosts
from orchestrator.drafting.drafter import Drafter, FirstDrafter
from orchestrator.drafting.experience import Experience
from orchestrator.drafting.ngram import NgramDrafter
from orchestrator.drafting.prediction import PredictionDrafter
from orchestrator.drafting.texts import LongestMatchDrafter
from orchestrator.generation.cycle import run_cycles
from orchestrator.generation.length_policy import PaidLength
from orchestrator.generation.statistics import Statistics
from orchestrator.peers.target import TargetSession
from orchestrator.simulation.clock import Clock, run_virtual
from orchestrator.simulation.connection import Door, Link
from orchestrator.simulation.engine import ClockEngine, ClockRuntime
from orchestrator.simulation.script import Script
from orchestrator.simulation.services import Verify, model_info
from orchestrator.stack.bundled import bundled_pair
from outrider.v1 import common_pb2
from services.engine.model.model import Model
from services.engine.model.vocabulary import Vocabulary
from services.frame.server import FrameServer
from services.frame.telemetry import Telemetry
from services.session.sequence import TokenSequence

# By what is said of it: costs, and the most draft tokens of a cycle.
MACHINES = {
    "CPU, 0.8B BF16": ("cpu-0.8b-bf16.json", 16),
    "H200, 8B BF16": ("h200-8b-bf16.json", 16),
    "H200, 8B BF16, 64 draft tokens": ("h200-8b-bf16.json", 64),
}
# Bytes of a file that is taken.
SIZES = range(400, 12_000)


@dataclass(frozen=True)
class Edit:
    """A file before and after it was changed, as tokens."""

    before: Sequence[int]
    after: Sequence[int]


class Answer(Script):
    """Says the new file after a prompt of so many tokens."""

    def __init__(self, num_prompt_tokens: int, tokens: Sequence[int]) -> None:
        super().__init__(0, 0, [1.0])
        self._first = num_prompt_tokens
        self._answer = tokens

    def token(self, position: int) -> int:
        """Return the target's token."""
        place = position - self._first
        return self._answer[place] if place < len(self._answer) else 0


# Makes the drafter of an edit.
Make = Callable[[Edit], Drafter]
DRAFTERS: dict[str, Make] = {
    "plain": lambda edit: FirstDrafter(),
    "lookup": lambda edit: NgramDrafter(4, 12, ()),
    "prediction": lambda edit: PredictionDrafter(edit.before, len(edit.before), ()),
    "prediction and lookup": lambda edit: LongestMatchDrafter(
        PredictionDrafter(edit.before, len(edit.before), ()), NgramDrafter(4, 12, ())
    ),
}


def edits(checkout: Path, vocabulary: Vocabulary, number: int) -> list[Edit]:
    """Return so many changes of files, drawn from the whole history, the same each time."""
    found = []
    for texts in _changes(checkout):
        found.append(Edit(*(vocabulary.tokenize(text, add_bos=False, parse_special=False) for text in texts)))
        if len(found) == number:
            break
    return found


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", checkout, *arguments], capture_output=True, check=True)
    return done.stdout.decode(errors="replace")


def _changes(checkout: Path) -> Iterator[tuple[str, str]]:
    def git(*arguments: str) -> str:
        return _git(checkout, *arguments)

    commits = git("log", "--no-merges", "--reverse", "--format=%H", "--diff-filter=M", "--", "*.py").split()
    random.Random(1).shuffle(commits)
    for commit in commits:
        for name in git("diff", "--name-only", "--diff-filter=M", f"{commit}~1", commit, "--", "*.py").split():
            before, after = (git("show", f"{revision}:{name}") for revision in (f"{commit}~1", commit))
            # Generated files are nobody's to edit.
            if len(after) in SIZES and "_pb2" not in name and before.strip():
                yield before, after


def replay(given: Sequence[Edit], make: Make, costs: ModelCosts, most: int) -> tuple[float, Statistics]:
    """Return the tokens per second of all edits, one after the other, and what their cycles came to."""
    return run_virtual(lambda clock: _replay(clock, given, make, costs, most))


async def _replay(
    clock: Clock, given: Sequence[Edit], make: Make, costs: ModelCosts, most: int
) -> tuple[float, Statistics]:
    server: Any = type("Server", (), {"cycle_telemetry": Telemetry.off(), "draining": asyncio.Event()})()
    answers = {str(number): Answer(len(edit.before), edit.after) for number, edit in enumerate(given)}
    engine = ClockEngine(clock, ClockRuntime(costs, clock.elapse, 1), lambda decode: None)
    door = Door(Verify(cast(FrameServer, server), cast(Any, engine), answers).serve, Link(0.0))
    experience, statistics = Experience(), Statistics()
    num_tokens, took_s = 0, 0.0
    for number, edit in enumerate(given):
        target = TargetSession(
            cast(Any, door),
            str(number),
            common_pb2.Sampling(),
            Telemetry.off(),
            model=model_info("target"),
            describe=_describe,
            patience_s=1.0,
        )
        cycles = run_cycles(
            TokenSequence(edit.before),
            target,
            make(edit),
            PaidLength(experience, most),
            max_length=len(edit.before) + len(edit.after),
            telemetry=Telemetry.off(),
        )
        first_s = 0.0
        async with aclosing(cycles):
            async for cycle in cycles:
                # The first one reads the prompt.
                first_s = first_s or time.perf_counter()
                num_tokens += len(cycle.tokens) if cycle.index else 0
                statistics.count(cycle)
        took_s += time.perf_counter() - first_s
        await target.close()
    engine.stop()
    return num_tokens / took_s, statistics


async def _describe() -> common_pb2.ModelInfo:
    return model_info("target")


def main() -> None:
    """Replay as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkout", type=Path, default=Path())
    parser.add_argument("--edits", type=int, default=100)
    arguments = parser.parse_args()
    target, _ = bundled_pair()
    given = edits(arguments.checkout, Model(target).vocabulary, arguments.edits)
    commit = _git(arguments.checkout, "rev-parse", "--short", "HEAD").strip()
    print(json.dumps({"commit": commit, "edits": len(given), "tokens": sum(len(edit.after) for edit in given)}))
    for machine, (name, most) in MACHINES.items():
        costs = load_costs(Path(str(files("orchestrator.costs").joinpath(name)))).target
        plain_rate = 0.0
        for drafter, make in DRAFTERS.items():
            rate, counts = replay(given, make, costs, most)
            plain_rate = plain_rate or rate
            drafted, accepted = counts.num_draft_tokens.total(), counts.num_accepted_tokens.total()
            told = {
                "speedup": round(rate / plain_rate, 2),
                "tokens_a_cycle": round(1 + accepted / counts.num_cycles, 2),
                "draft_tokens_a_cycle": round(drafted / counts.num_cycles, 2),
                "accepted": round(accepted / drafted, 3) if drafted else None,
            }
            print(json.dumps({"machine": machine, "drafter": drafter, **told}), flush=True)


if __name__ == "__main__":
    main()
