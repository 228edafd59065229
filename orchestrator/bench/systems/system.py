"""What every system that is measured has to offer, and with what settings it is asked."""

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Ask
from orchestrator.stack.process import CrashedError, RefusedError
from services.frame.rpc.errors import ServiceError

_MOST_DRAFT_TOKENS = 64
# What a system raises that cannot be started, or asked.
FAILURES = (OSError, ServiceError, RefusedError, CrashedError)
# Plain decoding: beside a draft that idles, without one, and a second time, to see how far apart equal runs lie.
PLAIN, ALONE, AGAIN = "plain", "alone", "plain again"
# As many draft tokens as pay.
AUTO = "auto"
# No drafts but those of what is expected as the answer.
PREDICTION = "prediction"


@dataclass(frozen=True)
class Setting:
    """How a system decodes: with so many draft tokens, as many as it thinks best, or plainly.

    `kind` is `plain`, `alone`, `again`, `auto`, `fixed`, `ngram`, `prediction` or, of llama-server, one of its other
    types of speculation; `num_draft_tokens` counts for `fixed` only. `least_probability` is llama-server's
    `--spec-draft-p-min`.
    """

    kind: str
    num_draft_tokens: int = 0
    least_probability: float | None = None

    @property
    def name(self) -> str:
        """How it is called on the command line and in results."""
        if self.kind == "again":
            return AGAIN
        if self.kind != "fixed":
            return self.kind
        return str(self.num_draft_tokens) + (f"/{self.least_probability:g}" if self.least_probability else "")

    @property
    def has_draft(self) -> bool:
        """Whether a draft service runs, though it may idle."""
        return self.kind != "alone"

    @property
    def is_plain(self) -> bool:
        """Whether nothing is drafted."""
        return self.kind in (PLAIN, ALONE, "again")

    @staticmethod
    def parse(name: str) -> "Setting":
        """Return the setting of this name, of ours. Raises ValueError where there is none."""
        if name in (PLAIN, ALONE, AUTO, "ngram", PREDICTION):
            return Setting(name)
        if not name.isdecimal() or not 1 <= int(name) <= _MOST_DRAFT_TOKENS:
            raise ValueError(
                f"a setting is plain, alone, auto, ngram, prediction or 1 to {_MOST_DRAFT_TOKENS} draft tokens"
            )
        return Setting("fixed", int(name))


@dataclass(frozen=True)
class Models:
    """What every system runs, and how: context in tokens of each slot, threads of a decode; 0 takes all cores."""

    target: Path
    draft: Path | None
    slots: int
    context: int
    threads: int
    gpu_layers: int | None = None

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of a service, and of the bare loop."""
        on_gpu = () if self.gpu_layers is None else (f"--gpu-layers={self.gpu_layers}",)
        return ("--slots", str(self.slots), "--context", str(self.context), "--threads", str(self.threads), *on_gpu)


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class System(Protocol):
    """Something that is measured. Its processes are started by `start` and stopped by the stack that it is given."""

    name: str
    settings: Sequence[Setting]
    # What it is, for the results, once it has started: its version, and flags of its own.
    about: dict[str, Any]

    async def start(self, running: AsyncExitStack) -> dict[str, str]:
        """Return when it can be asked, with what is wrong with settings, by their names, that cannot be had.

        Raises one of FAILURES where none can. From then on `settings` are those that can be had.
        """

    def asking(self, prompt: Prompt, setting: Setting, num_tokens: int) -> Ask:
        """Return what asks for one stream: going on with a prompt, greedily, for so many tokens."""

    def processes(self, setting: Setting) -> dict[str, int]:
        """Return the ids, by what they do, of the processes that serve this setting; the others idle."""
