"""Forward and backward passes: in this process on a GPU, on single-threaded processes on a CPU.

Two threads that meet at every operation lose most of their time once another program takes a core. Processes that
fetch the next pass when they are ready meet once per step, and a slowed one simply does fewer passes.
"""

from __future__ import annotations

import os
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import torch
from torch import Tensor, multiprocessing, nn

LARGEST_STEP = 1 << 16
"""Most ids of one step's windows together."""


class Objective(nn.Module):
    """What is minimised: holds the trained model and gives the mean loss, in nats, over one pass."""

    trained: nn.Module

    def prepare(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Turn what the source gave for one pass into forward's inputs; runs outside the compiled graph."""
        return (windows,)

    def forward(self, inputs: tuple[Tensor, ...], progress: Tensor) -> Tensor:
        """Return the loss as a scalar tensor; progress is a scalar in [0, 1]."""
        raise NotImplementedError


class Inline:
    """Passes in this process."""

    def __init__(self, objective: Objective, *, is_compiled: bool) -> None:
        self._objective = objective
        self._call = torch.compile(objective, dynamic=False) if is_compiled else objective

    def accumulate(self, ids: Tensor, batch: int, progress: float) -> float:
        """Set the gradient of the mean loss over ids (windows, width), ``batch`` a pass; return that loss."""
        passes = ids.split(batch)
        total = 0.0
        for part in passes:
            loss = self._call(self._objective.prepare(part), torch.tensor(progress, device=part.device)) / len(passes)
            loss.backward()
            total += float(loss.detach())
        return total

    def close(self) -> None:
        """Nothing to end."""


class Workers:
    """Passes shared out over processes of one thread each; parameters and gradients lie in shared memory.

    Raises EOFError from accumulate where a worker has died.
    """

    def __init__(self, objective: Objective, num_workers: int, *, is_compiled: bool) -> None:
        context: Any = multiprocessing.get_context("spawn")
        objective.share_memory()
        self._parameters = list(objective.trained.parameters())
        self._ids = torch.zeros(LARGEST_STEP, dtype=torch.int64).share_memory_()
        self._next = context.Value("i", 0)
        self._gradients = [[torch.zeros_like(p).share_memory_() for p in self._parameters] for _ in range(num_workers)]
        self._connections: list[Connection[Any, Any]] = []
        for gradients in self._gradients:
            ours, theirs = context.Pipe()
            arguments = (objective, gradients, self._ids, self._next, theirs, is_compiled)
            context.Process(target=_work, args=arguments, daemon=True).start()
            theirs.close()
            self._connections.append(ours)

    def accumulate(self, ids: Tensor, batch: int, progress: float) -> float:
        """Set the gradient of the mean loss over ids (windows, width), ``batch`` a pass; return that loss."""
        num_passes = len(ids) // batch
        self._ids[: ids.numel()] = ids.flatten()
        self._next.value = 0
        for connection in self._connections:
            connection.send((progress, batch, num_passes, ids.shape[1]))
        total = sum(connection.recv() for connection in self._connections)
        for index, parameter in enumerate(self._parameters):
            parameter.grad = self._gradients[0][index]
            for gradients in self._gradients[1:]:
                parameter.grad += gradients[index]
        return float(total)

    def close(self) -> None:
        """End the workers."""
        for connection in self._connections:
            connection.close()


def _work(
    objective: Objective,
    gradients: list[Tensor],
    all_ids: Tensor,
    next_pass: Synchronized[int],
    connection: Connection[Any, Any],
    is_compiled: bool,
) -> None:
    torch.set_num_threads(1)
    call = torch.compile(objective, dynamic=False) if is_compiled else objective
    for parameter, gradient in zip(objective.trained.parameters(), gradients, strict=True):
        parameter.grad = gradient  # backward adds to it in place
    while True:
        try:
            progress, batch, num_passes, width = connection.recv()
        except EOFError:
            return
        for gradient in gradients:
            gradient.zero_()
        total = 0.0
        while True:
            with next_pass.get_lock():
                index = next_pass.value
                next_pass.value += 1
            if index >= num_passes:
                break
            ids = all_ids[index * batch * width : (index + 1) * batch * width].view(batch, width)
            loss = call(objective.prepare(ids), torch.tensor(progress)) / num_passes
            loss.backward()
            total += float(loss.detach())
        try:
            connection.send(total)
        except BrokenPipeError:
            return


def passes_for(objective: Objective, *, is_compiled: bool) -> Inline | Workers:
    """Pick the way of the device the objective lies on; on a CPU one worker per core."""
    if next(objective.trained.parameters()).device.type == "cuda":
        return Inline(objective, is_compiled=is_compiled)
    return Workers(objective, os.cpu_count() or 1, is_compiled=is_compiled)
