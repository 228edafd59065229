"""Distilling the draft: the target's whole distribution, on corpus text and on text the target wrote itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from models.train.agreement import agreement, held_out_texts
from models.train.model import DRAFT_SHAPE, TARGET_SHAPE, Decoder, ModelShape, num_parameters, with_half_matrices
from models.train.optimizer import Optimizers, Rates
from models.train.schedule import Stage
from models.train.stores import Store
from models.train.teacher import fill_stores, portions, temperature_of
from models.train.tokenizer import open_token_file
from models.train.trainer import Trainer, autocast, device, reading, seed_everything
from models.train.workers import Objective

RATES = Rates(5e-3, 2.5e-3)
NUM_WRITTEN, NUM_READ, NUM_LONG = 4608, 3072, 256
"""Rows the target writes, reads, and reads at full length, before the draft starts."""
NEAR_GREEDY, SAMPLED = 0.3, 0.8
"""Temperatures at which the total variation is taken: near greedy use, and in the middle of sampled use."""
LAST_DIVERGENCE = 0.15
"""Weight of the divergence once the total variation has all of its own."""
LONG_FROM = 0.8
FIRST_NORM = 0.2
"""The projected embeddings are as large as trained ones: with a norm of 1 the first logits would be far too sure."""


def mostly_written(progress: float) -> tuple[float, float, float]:
    """Say how often to show each store, the shortest rows first: the target's own text, then whole contexts too."""
    return (0.6, 0.4, 0.0) if progress < LONG_FROM else (0.5, 0.25, 0.25)


class Rows:
    """Row numbers of the stores, each store in a seeded random order, over and over."""

    def __init__(self, stores: list[Store], seed: int) -> None:
        self.epochs = 0.0
        self._num_rows = {store.length: store.num_rows for store in stores}
        self._random = np.random.default_rng(seed)
        self._left: dict[int, list[int]] = {length: [] for length in self._num_rows}
        self._total = sum(store.num_rows * store.length for store in stores)

    def next(self, batch: int, length: int) -> npt.NDArray[np.int64]:
        """Return (batch, 2): the length, which names the store, and a row number."""
        left = self._left[length]
        while len(left) < batch:
            left += self._random.permutation(self._num_rows[length]).tolist()
        self.epochs += batch * length / self._total
        rows, left[:] = left[:batch], left[batch:]
        return np.array([(length, row) for row in rows], dtype=np.int64)

    def stage(self, progress: float) -> Stage:
        """Draw which store the next step shows."""
        length = int(self._random.choice(sorted(self._num_rows), p=mostly_written(progress)))
        return Stage(1.0, length, num_passes=4)

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs; it starts fresh permutations."""
        return {"epochs": self.epochs}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what state_dict gave."""
        self.epochs = state["epochs"]


class Distillation(Objective):
    """Divergence of the draft from the target, position by position.

    Kullback-Leibler over the whole distribution first (Hinton et al. 2015); from a third of the run on, total variation
    joins it, which is what acceptance falls short by (Zhou et al. 2023, DistillSpec).
    """

    teacher_embedding: Tensor

    def __init__(self, draft: Decoder, target: Decoder, stores: list[Store], folder: Path) -> None:
        super().__init__()
        self.trained: Decoder = draft
        self.register_buffer("teacher_embedding", target.embedding.detach().clone(), persistent=False)
        self._stores = {store.length: store for store in stores}
        self._folder = folder
        self._opened: dict[int, tuple[npt.NDArray[np.uint16], npt.NDArray[np.float16]]] = {}

    def prepare(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Look up ids (batch, length) and the target's states (batch, length, dim) of rows of one store."""
        length = int(windows[0, 0])
        if length not in self._opened:
            self._opened[length] = self._stores[length].open(self._folder)
        ids, states = self._opened[length]
        rows = windows[:, 1].cpu().numpy()
        where = windows.device
        return (
            torch.from_numpy(ids[rows].astype(np.int64)).to(where),
            torch.from_numpy(states[rows]).to(where, torch.bfloat16),
        )

    def forward(self, inputs: tuple[Tensor, ...], progress: Tensor) -> Tensor:
        """Return the mean divergence in nats, total variation counted with its weight at this progress."""
        ids, states = inputs
        with autocast():
            wanted = F.linear(states, self.teacher_embedding.bfloat16()).float().flatten(0, 1)
            found = self.trained(ids).float().flatten(0, 1)
        weight = ((progress - 0.3) / 0.3).clamp(0.0, 1.0)
        variations = variation(wanted, found, NEAR_GREEDY) + variation(wanted, found, SAMPLED)
        return (1.0 - (1.0 - LAST_DIVERGENCE) * weight) * divergence(wanted, found) + weight * variations


def divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """Return the mean Kullback-Leibler divergence, in nats, of found logits (rows, vocabulary) from the wanted."""
    wanted_log, found_log = F.log_softmax(wanted, -1), F.log_softmax(found, -1)
    return (wanted_log.exp() * (wanted_log - found_log)).sum(-1).mean()


def variation(wanted: Tensor, found: Tensor, temperature: float) -> Tensor:
    """Return the mean total variation between the distributions of two sets of logits (rows, vocabulary)."""
    return 0.5 * (F.softmax(wanted / temperature, -1) - F.softmax(found / temperature, -1)).abs().sum(-1).mean()


def _projected(embedding: Tensor, dim: int) -> Tensor:
    """Keep the ``dim`` strongest directions of an embedding matrix (vocabulary, wider dim)."""
    directions = torch.linalg.svd(embedding.float(), full_matrices=False).Vh[:dim]
    return embedding.float() @ directions.mT


def load_trained(work_dir: Path, name: str, shape: ModelShape) -> Decoder:
    """Load what a training step wrote. Raises FileNotFoundError where it has not run, CommandError as `reading`."""
    model = Decoder(shape).to(device())
    path = work_dir / f"{name}.pt"
    with reading(path):
        model.load_state_dict(torch.load(path, map_location=device(), weights_only=True)["model"])
    return model


def written_rows(work_dir: Path) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.bool_]]:
    """Open the text (rows, length) that the target wrote for the draft, and whether each row was drawn or is greedy.

    Raises FileNotFoundError where it has not.
    """
    written, *_ = portions(NUM_WRITTEN, NUM_READ, NUM_LONG)
    ids, _ = written.store.open(work_dir / "distil")
    return ids, np.array([temperature_of(row) > 0 for row in range(len(ids))])


def train_draft(work_dir: Path, minutes: float, seed: int, *, resume: bool, is_compiled: bool = True) -> None:
    """Distil the draft for some minutes after the target has filled its stores; writes ``draft.pt`` under work_dir.

    Raises FileNotFoundError where the target step has not run.
    """
    seed_everything(seed)
    target = with_half_matrices(load_trained(work_dir, "target", TARGET_SHAPE))
    stores = fill_stores(target, portions(NUM_WRITTEN, NUM_READ, NUM_LONG), work_dir, seed)
    draft = Decoder(DRAFT_SHAPE).to(device())
    draft.embedding.data.copy_(_projected(target.embedding, DRAFT_SHAPE.dim))
    draft.norm.data.fill_(FIRST_NORM)
    rows = Rows(stores, seed)
    objective = Distillation(draft, target, stores, work_dir / "distil")
    optimizers = Optimizers((draft, RATES))
    trainer = Trainer("draft", objective, optimizers, rows, work_dir, minutes, stage_of=rows.stage)
    if resume:
        trainer.resume()
    print(f"draft: {num_parameters(draft):,} parameters", flush=True)
    texts = held_out_texts(target, open_token_file(work_dir / "held_out.bin"), seed)

    def evaluate(is_final: bool) -> str:
        greedy, sampled = (agreement(target, draft, ids, temperature) for ids, temperature in texts)
        return f"draft: agrees {greedy:.4f} greedily, {sampled:.4f} at temperature 0.8, on text the target wrote"

    trainer.run(evaluate, is_compiled=is_compiled)
