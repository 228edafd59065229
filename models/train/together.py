"""Training target and draft on together: the target goes on learning its corpus, and each moves towards the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.train.agreement import agreement, held_out_texts
from models.train.corpus import read_texts
from models.train.draft import Rows, Shares, distance, load_stores, load_trained
from models.train.heldout import bits_per_byte
from models.train.model import DRAFT_SHAPE, TARGET_SHAPE, Decoder, with_half_matrices
from models.train.optimizer import Optimizers
from models.train.stores import Store
from models.train.target import QUICK_FILES
from models.train.tokenizer import load_tokenizer, open_token_file
from models.train.trainer import Trainer, autocast, seed_everything
from models.train.workers import Objective

MATRIX_LR = 3e-3
EMBEDDING_LR = 1.5e-3


def mostly_read(progress: float) -> Shares:
    """Show mostly corpus text, from which both learn."""
    return (0.3, 0.6, 0.1)


class Pair(nn.Module):
    """Both models, so that one trainer moves both."""

    def __init__(self, target: Decoder, draft: Decoder) -> None:
        super().__init__()
        self.target, self.draft = target, draft


class MutualLearning(Objective):
    """Cross-entropy of the target on corpus text, and the distance between both (Zhang et al. 2018, arXiv 1706.00384).

    On text the target wrote itself there is nothing that holds it in place, so there only the draft learns.
    """

    def __init__(self, pair: Pair, stores: list[Store], folder: Path) -> None:
        super().__init__()
        self.trained: Pair = pair
        self._stores = {store.length: store for store in stores}
        self._folder = folder
        self._opened: dict[int, npt.NDArray[np.uint16]] = {}

    def prepare(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Look up ids (batch, length) of rows of one store, and whether they are corpus text (1) or written (0)."""
        length = int(windows[0, 0])
        if length not in self._opened:
            self._opened[length], _ = self._stores[length].open(self._folder)
        ids = self._opened[length][windows[:, 1].cpu().numpy()].astype(np.int64)
        is_corpus = torch.tensor(float(self._stores[length].name != "written"))
        return torch.from_numpy(ids).to(windows.device), is_corpus.to(windows.device)

    def forward(self, inputs: tuple[Tensor, ...], progress: Tensor) -> Tensor:
        """Return the loss in nats over (batch, length) ids; the progress plays no part."""
        ids, is_corpus = inputs
        with autocast():
            wanted, found = (model(ids).float() for model in (self.trained.target, self.trained.draft))
        loss = F.cross_entropy(wanted[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        wanted = is_corpus * wanted + (1.0 - is_corpus) * wanted.detach()
        return is_corpus * loss + distance(wanted.flatten(0, 1), found.flatten(0, 1), 1.0)


def train_together(work_dir: Path, minutes: float, seed: int, *, resume: bool, is_compiled: bool = True) -> None:
    """Train both on for some minutes; writes ``together.pt`` under work_dir, the two models of the pair.

    Raises FileNotFoundError where the draft step has not run.
    """
    seed_everything(seed)
    target, draft = load_trained(work_dir, "target", TARGET_SHAPE), load_trained(work_dir, "draft", DRAFT_SHAPE)
    stores = load_stores(with_half_matrices(load_trained(work_dir, "target", TARGET_SHAPE)), work_dir, seed)
    pair = Pair(target, draft)
    rows = Rows(stores, seed, mostly_read)
    objective = MutualLearning(pair, stores, work_dir / "distil")
    optimizers = Optimizers(pair, MATRIX_LR, EMBEDDING_LR)
    trainer = Trainer("together", objective, optimizers, rows, work_dir, minutes, stage_of=rows.stage)
    if resume:
        trainer.resume()
    tokenizer, stream = load_tokenizer(work_dir), open_token_file(work_dir / "held_out.bin")
    texts = [text for _, text in read_texts(work_dir, "held_out")]

    def evaluate(is_final: bool) -> str:
        part = texts if is_final else texts[:: max(1, len(texts) // QUICK_FILES)]
        bits = bits_per_byte(target, tokenizer, part)
        written = held_out_texts(target, stream, seed)
        greedy, sampled = (agreement(target, draft, ids, temperature) for ids, temperature in written)
        return (
            f"together: {bits:.4f} bits per byte on {len(part)} held-out files, "
            f"agree {greedy:.4f} greedily, {sampled:.4f} at temperature 0.8"
        )

    print(evaluate(False), flush=True)
    trainer.run(evaluate, is_compiled=is_compiled)
