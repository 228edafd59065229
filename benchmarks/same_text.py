"""Whether the text is what plain decoding gives, whatever happens to the draft, the target and the load.

`python benchmarks/same_text.py [--target PATH --draft PATH] [--case NAME ...]` generates each prompt plainly, alone,
and then in every case below with the same seed, and counts the prompts that differ. What is done is kept in --out, and
not done again: it can be interrupted at any time.
"""

import argparse
import asyncio
import json
import random
import re
import sysconfig
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rig import Answer, Rig
from same_text_results import Results, compare, table

from orchestrator.stack.bundled import bundled_pair
from outrider.v1 import common_pb2, generation_pb2

TEMPERATURES = (0.0, 0.8)
PLAIN = "plain"
_HEADER = re.compile(r"^ {0,4}def \w+\(.*\):\n", re.MULTILINE)


def auto() -> generation_pb2.Speculation:
    """Speculation as it is by default."""
    return generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_AUTO)


def fixed(num_draft_tokens: int) -> generation_pb2.Speculation:
    """Speculation with so many draft tokens in every cycle."""
    return generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_FIXED, num_draft_tokens=num_draft_tokens)


@dataclass(frozen=True)
class Case:
    """How requests are made, and what happens to the services meanwhile.

    `before` happens before the requests begin, `accident` when one of those that run at once reaches a random token.
    """

    speculation: generation_pb2.Speculation = field(default_factory=auto)
    num_at_once: int = 1
    before: Callable[[Rig], Awaitable[None]] = Rig.mend
    accident: Callable[[Rig], Awaitable[None]] | None = None


CASES = {
    # By itself, as the others are compared with it.
    PLAIN: Case(generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_OFF)),
    "draft-on": Case(),
    "draft-off": Case(before=Rig.kill_draft),
    "draft-killed": Case(num_at_once=4, accident=Rig.kill_draft),
    "draft-swapped": Case(num_at_once=4, accident=Rig.swap_draft),
    "1-draft-token": Case(fixed(1)),
    "3-draft-tokens": Case(fixed(3)),
    "7-draft-tokens": Case(fixed(7)),
    "8-at-once": Case(num_at_once=8),
    "target-restarted": Case(num_at_once=4, accident=Rig.restart_target),
}


def prompts(count: int) -> list[str]:
    """Return function headers of the standard library with up to ten lines before them, the same ones every time."""
    rng = random.Random(0)
    paths = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    found: list[str] = []
    while len(found) < count:
        text = rng.choice(paths).read_text(errors="replace")
        headers = list(_HEADER.finditer(text))
        if headers:
            end = rng.choice(headers).end()
            found.append("\n".join(text[:end].split("\n")[-11:]))
    return found


async def run_together(
    rig: Rig, case: Case, requests: Sequence[generation_pb2.GenerateRequest], accident_at: tuple[int, int]
) -> tuple[list[Answer], bool]:
    """Ask all at once; return the answers, and whether the accident happened in the middle of them.

    `accident_at` says which of the requests has to have how many tokens for it to happen.
    """
    struck = asyncio.Event()
    which, num_tokens = accident_at

    def on_token(index: int) -> Callable[[int], None]:
        return lambda count: struck.set() if index == which and count >= num_tokens else None

    async def happen() -> None:
        await struck.wait()
        assert case.accident is not None
        await case.accident(rig)

    accident = asyncio.create_task(happen()) if case.accident else None
    answers = await asyncio.gather(*(rig.ask(request, on_token(index)) for index, request in enumerate(requests)))
    if accident is None:
        return answers, False
    is_struck = struck.is_set()
    if is_struck:
        await accident
    accident.cancel()
    return answers, is_struck


class Matrix:
    """Runs the cases that are not done yet."""

    def __init__(self, rig: Rig, results: Results, num_prompts: int, max_tokens: int) -> None:
        self._rig = rig
        self._results = results
        self._prompts = prompts(num_prompts)
        self._max_tokens = max_tokens

    async def run(self, names: Sequence[str], progress: Progress) -> None:
        """Run cases by their names, after plain decoding."""
        for name in dict.fromkeys((PLAIN, *names)):
            for temperature in TEMPERATURES:
                await self._run_case(name, temperature, progress)

    async def _run_case(self, name: str, temperature: float, progress: Progress) -> None:
        case, done = CASES[name], self._results.of(name, temperature)
        left = [index for index in range(len(self._prompts)) if str(index) not in done]
        bar = progress.add_task(f"{name}, temperature {temperature:g}", total=len(self._prompts), completed=len(done))
        while left:
            batch, left = left[: case.num_at_once], left[case.num_at_once :]
            requests = [self._request(index, case, temperature) for index in batch]
            await case.before(self._rig)
            if name == PLAIN:
                done[str(batch[0])] = (await self._rig.ask(requests[0])).tokens
            else:
                references = [self._results.of(PLAIN, temperature)[str(index)] for index in batch]
                rng = random.Random(f"{name} {temperature} {batch[0]}")
                which = rng.randrange(len(batch))
                accident_at = which, rng.randint(1, max(1, len(references[which]) - 1))
                answers, is_struck = await run_together(self._rig, case, requests, accident_at)
                for index, answer, reference in zip(batch, answers, references, strict=True):
                    done[str(index)] = compare(answer, reference) | {"is_struck": is_struck}
            self._results.save()
            progress.update(bar, completed=len(done))

    def _request(self, index: int, case: Case, temperature: float) -> generation_pb2.GenerateRequest:
        return generation_pb2.GenerateRequest(
            text=self._prompts[index],
            max_tokens=self._max_tokens,
            seed=index,
            sampling=common_pb2.Sampling(temperature=temperature),
            speculation=case.speculation,
        )


async def measure(arguments: argparse.Namespace, target: Path, draft: Path) -> None:
    """Run what is asked for and print the table."""
    threads = ("--threads", str(arguments.threads))
    drafts = (draft, arguments.other_draft or target)
    async with Rig(target, drafts, target_flags=(*threads, "--exact", arguments.exact), draft_flags=threads) as rig:
        model = (await rig.status()).target.model
        settings = {
            "target": f"{model.name} {model.quantization}",
            "draft": draft.name,
            "numerics": model.numerics_fingerprint,
            "exact": f"{common_pb2.ExactMode.Name(model.exact_mode)} {model.exact_width}",
            "num_prompts": arguments.prompts,
            "max_tokens": arguments.max_tokens,
        }
        results = Results(arguments.out, settings)
        console = Console(stderr=True)
        bars = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*bars, console=console) as progress:
            await Matrix(rig, results, arguments.prompts, arguments.max_tokens).run(arguments.case, progress)
    print(json.dumps(settings))
    cases = [name for name in CASES if name != PLAIN]
    Console(width=120).print(table(results, cases, TEMPERATURES))


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--other-draft", type=Path, help="takes the draft's place; the target itself if absent")
    parser.add_argument("--case", action="append", choices=list(CASES), help="all if absent")
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--exact", choices=("auto", "on", "off"), default="on")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/same_text.json"))
    arguments = parser.parse_args()
    arguments.case = arguments.case or list(CASES)
    pair = (arguments.target, arguments.draft) if arguments.target and arguments.draft else bundled_pair()
    asyncio.run(measure(arguments, *pair))


if __name__ == "__main__":
    main()
