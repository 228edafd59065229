"""Training target and draft on together: the target goes on learning its corpus, and each moves towards the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.command import CommandError
from models.llama_gguf import ModelFileError
from models.train.agreement import PROMPT, agreement, held_out_texts
from models.train.corpus import read_texts
from models.train.draft import (
    LAST_DIVERGENCE,
    NEAR_GREEDY,
    SAMPLED,
    divergence,
    load_trained,
    variation,
    written_rows,
)
from models.train.heldout import bits_per_byte
from models.train.llama import load_gguf
from models.train.model import DRAFT_SHAPE, TARGET_SHAPE, Decoder
from models.train.optimizer import Optimizers, Rates
from models.train.schedule import Stage
from models.train.target import QUICK_FILES
from models.train.teacher import WRITTEN_PROMPT
from models.train.tokenizer import load_tokenizer, open_token_file
from models.train.trainer import Trainer, autocast, device, seed_everything
from models.train.windows import Windows
from models.train.workers import Objective

TARGET_RATES, DRAFT_RATES = Rates(1e-3, 5e-4), Rates(2e-3, 1e-3)
REPEATED = 8
"""A token counts as a repetition when the run of so many tokens that it ends stood in the same text before."""
SHARES = {512: 0.45, 2048: 0.2}
"""How often a step shows corpus windows of a length; the other steps show text the target wrote."""


class Pair(nn.Module):
    """Both models, so that one trainer moves both."""

    def __init__(self, target: Decoder, draft: Decoder) -> None:
        super().__init__()
        self.target, self.draft = target, draft


class Texts:
    """Corpus windows of the lengths in SHARES, and text the target wrote, of another length, in a seeded random order.

    A last column of written text says whether it was drawn (1) or is greedy (0).
    """

    def __init__(
        self, corpus: Windows, written: npt.NDArray[np.uint16], is_drawn: npt.NDArray[np.bool_], seed: int
    ) -> None:
        self._corpus = corpus
        self._written = np.column_stack((written, is_drawn))
        self._random = np.random.default_rng(seed)

    @property
    def epochs(self) -> float:
        """How often the corpus was seen."""
        return self._corpus.epochs

    def next(self, batch: int, length: int) -> npt.NDArray[np.int64]:
        """Return (batch, length): ids, and the last column of written text."""
        if length in SHARES:
            return self._corpus.next(batch, length)[:, :length]
        return self._written[self._random.integers(len(self._written), size=batch)].astype(np.int64)

    def stage(self, progress: float) -> Stage:
        """Draw what the next step shows, whatever the progress."""
        lengths, shares = [*SHARES, self._written.shape[1]], [*SHARES.values()]
        return Stage(1.0, int(self._random.choice(lengths, p=[*shares, 1.0 - sum(shares)])), num_passes=4)

    def state_dict(self) -> dict[str, float]:
        """What a resumed run needs; it starts a fresh permutation."""
        return self._corpus.state_dict()

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore what state_dict gave."""
        self._corpus.load_state_dict(state)


def repetitions(ids: npt.NDArray[np.int64], start: int) -> npt.NDArray[np.float32]:
    """Mark with 1 each of ids (rows, length) that ends a run which occurred before in its row, counted from start."""
    marks = np.zeros(ids.shape, np.float32)
    for row, own in zip(ids, marks, strict=True):
        seen: set[bytes] = set()
        for end in range(start + REPEATED, len(row) + 1):
            run = row[end - REPEATED : end].tobytes()
            own[end - 1] = run in seen
            seen.add(run)
    return marks


class MutualLearning(Objective):
    """On corpus text the target's cross-entropy, and the distance between both (Zhang et al. 2018, arXiv 1706.00384).

    Near greedy use the target does not yield: what it is surest of would become what the draft repeats. Nor does it on
    text it wrote itself; where it drew that, it unlearns to repeat itself (unlikelihood, Welleck et al. 2020,
    arXiv 1908.04319).
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.trained: Pair = pair

    def prepare(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Return ids (batch, length), and for written text which of them are repetitions to unlearn."""
        if windows.shape[1] in SHARES:
            return (windows,)
        ids, is_drawn = windows[:, :-1].contiguous(), windows[:, -1:]
        marks = torch.from_numpy(repetitions(ids.cpu().numpy(), WRITTEN_PROMPT)).to(windows.device)
        return ids, marks * is_drawn

    def forward(self, inputs: tuple[Tensor, ...], progress: Tensor) -> Tensor:
        """Return the loss in nats over (batch, length) ids; the progress plays no part."""
        ids = inputs[0]
        with autocast():
            wanted, found = (model(ids).float().flatten(0, 1) for model in (self.trained.target, self.trained.draft))
        of_next = wanted.view(*ids.shape, -1)[:, :-1].flatten(0, 1)
        surprisal = F.cross_entropy(of_next, ids[:, 1:].flatten(), reduction="none")
        held = wanted.detach()
        if len(inputs) == 1:
            loss, yielding = surprisal, wanted
        else:
            loss, yielding = -torch.log(-torch.expm1(-surprisal.clamp_min(1e-5))) * inputs[1][:, 1:].flatten(), held
        apart = variation(yielding, found, SAMPLED) + variation(held, found, NEAR_GREEDY)
        return loss.mean() + LAST_DIVERGENCE * divergence(yielding, found) + apart


def train_together(
    work_dir: Path, minutes: float, seed: int, *, start: Path | None, resume: bool, is_compiled: bool = True
) -> None:
    """Train both on for some minutes; writes ``together.pt`` under work_dir, the two models of the pair.

    They start as the steps before left them, or as the two files in ``start`` say. Raises FileNotFoundError where the
    draft step has not run, CommandError where ``start`` holds no such pair.
    """
    seed_everything(seed)
    try:
        pair = Pair(
            *(
                load_gguf(start / f"{name}.gguf", shape).to(device()) if start else load_trained(work_dir, name, shape)
                for name, shape in (("target", TARGET_SHAPE), ("draft", DRAFT_SHAPE))
            )
        )
    except ModelFileError as error:
        raise CommandError(str(error)) from error
    target, draft = pair.target, pair.draft
    texts = Texts(Windows(open_token_file(work_dir / "train.bin"), seed), *written_rows(work_dir), seed)
    optimizers = Optimizers((target, TARGET_RATES), (draft, DRAFT_RATES))
    trainer = Trainer("together", MutualLearning(pair), optimizers, texts, work_dir, minutes, stage_of=texts.stage)
    if resume:
        trainer.resume()
    tokenizer, stream = load_tokenizer(work_dir), open_token_file(work_dir / "held_out.bin")
    held_out = [text for _, text in read_texts(work_dir, "held_out")]

    def evaluate(is_final: bool) -> str:
        part = held_out if is_final else held_out[:: max(1, len(held_out) // QUICK_FILES)]
        bits = bits_per_byte(target, tokenizer, part)
        written = held_out_texts(target, stream, seed)
        agree = [agreement(target, draft, ids, temperature) for ids, temperature in written]
        repeat = [repetitions(ids.cpu().numpy(), PROMPT)[:, PROMPT + REPEATED - 1 :].mean() for ids, _ in written]
        return (
            f"together: {bits:.4f} bits per byte on {len(part)} held-out files; greedily and at temperature 0.8 they "
            f"agree {agree[0]:.4f} and {agree[1]:.4f}, repeat {repeat[0]:.4f} and {repeat[1]:.4f}"
        )

    print(evaluate(False), flush=True)
    trainer.run(evaluate, is_compiled=is_compiled)
