"""The training loop shared by target and draft: budget, checkpoints, progress."""

from __future__ import annotations

import pickle
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from models.command import CommandError
from models.train.optimizer import Optimizers
from models.train.schedule import Budget, Stage, lr_factor, momentum_at, stage_at
from models.train.workers import Inline, Objective, Workers, passes_for
from services.frame.program.atomic_file import replacing

CHECKPOINT_EVERY_S = 180.0
LOG_EVERY_S = 60.0


class Source(Protocol):
    """Where windows come from."""

    @property
    def epochs(self) -> float:
        """How often everything was seen."""

    def next(self, batch: int, length: int) -> npt.NDArray[np.int64]:
        """Return ``batch`` rows for windows of ``length`` tokens."""

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs."""

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what state_dict gave."""


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast() -> AbstractContextManager[None]:
    """Bfloat16 matrix products on either device."""
    return torch.autocast(device().type, dtype=torch.bfloat16)


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, numpy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint in the place of the older one, which an interruption leaves as it was."""
    with replacing(path) as temporary:
        torch.save(state, temporary)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise CommandError for a checkpoint that is none, or of another model, where the block finds out."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CommandError(f"{path} is no checkpoint of this model ({reason}): remove it and train anew") from error


class Trainer:
    """Trains one model for a number of minutes; ``name``.pt under work_dir is its checkpoint."""

    def __init__(
        self,
        name: str,
        objective: Objective,
        optimizers: Optimizers,
        windows: Source,
        work_dir: Path,
        minutes: float,
        *,
        stage_of: Callable[[float], Stage] = stage_at,
    ) -> None:
        self.name, self.objective, self.optimizers, self.windows = name, objective, optimizers, windows
        self.model = objective.trained
        self.path = work_dir / f"{name}.pt"
        self.budget = Budget(minutes * 60)
        self.stage_of = stage_of
        self.stage = stage_of(0.0)
        self.num_steps = 0
        self.num_tokens = 0

    def checkpoint(self) -> None:
        """Write model, optimizers, generators and the time spent."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "windows": self.windows.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "spent_s": self.budget.spent_s,
            "num_steps": self.num_steps,
            "num_tokens": self.num_tokens,
        }
        save_atomically(state, self.path)

    def resume(self) -> None:
        """Go on from the checkpoint.

        Raises FileNotFoundError where there is none, CommandError for something else in its place.
        """
        with reading(self.path):
            state = torch.load(self.path, map_location=device(), weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizers.load_state_dict(state["optimizers"])
            self.windows.load_state_dict(state["windows"])
            torch.set_rng_state(state["torch_rng"].cpu())
            self.budget.spent_s = state["spent_s"]
            self.num_steps, self.num_tokens = state["num_steps"], state["num_tokens"]

    def run(self, evaluate: Callable[[bool], str], *, is_compiled: bool, evaluate_every_s: float = 420.0) -> None:
        """Train until the budget is spent. ``evaluate(is_final)`` gives a line for the log; its time is not counted."""
        passes = passes_for(self.objective, is_compiled=is_compiled)
        started_s = self.budget.spent_s
        logged_s = saved_s = evaluated_s = started_s
        recent: list[float] = []
        tokens_at_log = self.num_tokens
        clock_at_log = time.monotonic()
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f}%"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            disable=not sys.stdout.isatty(),
        ) as progress:
            task = progress.add_task(self.name, total=self.budget.total_s, completed=int(started_s), status="")
            while self.budget.spent_s < self.budget.total_s:
                recent.append(self._step(passes))
                spent_s = self.budget.spent_s
                status = f"loss {np.mean(recent[-50:]):.3f}"
                progress.update(task, completed=spent_s, status=status)
                if spent_s - logged_s >= LOG_EVERY_S:
                    rate = (self.num_tokens - tokens_at_log) / (time.monotonic() - clock_at_log)
                    line = (
                        f"{self.name} {spent_s / 60:.1f} min, step {self.num_steps}, epoch {self.windows.epochs:.2f}, "
                        f"length {self.stage.length}, loss {np.mean(recent):.4f}, "
                        f"{rate:.0f} tokens/s"
                    )
                    progress.update(task, status=f"{status}, {rate:.0f} tokens/s")
                    if progress.disable:
                        print(line, flush=True)
                    recent, logged_s = [], spent_s
                    tokens_at_log, clock_at_log = self.num_tokens, time.monotonic()
                if spent_s - saved_s >= CHECKPOINT_EVERY_S:
                    self.checkpoint()
                    saved_s = spent_s
                if spent_s - evaluated_s >= evaluate_every_s:
                    progress.console.print(evaluate(False))
                    evaluated_s = spent_s
                    clock_at_log = time.monotonic()
                    tokens_at_log = self.num_tokens
            self.checkpoint()
            passes.close()
            progress.console.print(evaluate(True))

    def _step(self, passes: Inline | Workers) -> float:
        began = time.monotonic()
        stage = self.stage = self.stage_of(self.budget.progress)
        num_windows = stage.batch * stage.num_passes
        ids = torch.from_numpy(self.windows.next(num_windows, stage.length)).to(device())
        loss = passes.accumulate(ids, stage.batch, self.budget.progress)
        self.optimizers.step(lr_factor(self.budget.progress), momentum_at(self.budget.progress))
        self.num_tokens += num_windows * stage.length
        self.num_steps += 1
        self.budget.add(time.monotonic() - began)
        return loss
