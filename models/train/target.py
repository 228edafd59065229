"""Training the target on the corpus."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from models.train.corpus import read_texts
from models.train.heldout import bits_per_byte
from models.train.model import TARGET_SHAPE, Decoder, num_parameters
from models.train.optimizer import Optimizers, Rates
from models.train.tokenizer import load_tokenizer, open_token_file
from models.train.trainer import Trainer, autocast, device, seed_everything
from models.train.windows import Windows
from models.train.workers import Objective

RATES = Rates(4e-3, 2e-3)
QUICK_FILES = 24
"""Held-out files measured while training, to see the trend; all of them at the end."""


class Likelihood(Objective):
    """Cross-entropy of the next token."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.trained: Decoder = model

    def forward(self, inputs: tuple[Tensor, ...], progress: Tensor) -> Tensor:
        """Return the mean loss over every token of (batch, length + 1) but the first; the progress plays no part."""
        (ids,) = inputs
        with autocast():
            logits = self.trained(ids[:, :-1])
        return F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())


def train_target(work_dir: Path, minutes: float, seed: int, *, resume: bool, is_compiled: bool = True) -> None:
    """Train the target for some minutes; writes ``target.pt`` under work_dir.

    Raises FileNotFoundError where the corpus or tokenizer step has not run.
    """
    seed_everything(seed)
    tokenizer = load_tokenizer(work_dir)
    texts = [text for _, text in read_texts(work_dir, "held_out")]
    model = Decoder(TARGET_SHAPE).to(device())
    windows = Windows(open_token_file(work_dir / "train.bin"), seed)
    trainer = Trainer("target", Likelihood(model), Optimizers((model, RATES)), windows, work_dir, minutes)
    if resume:
        trainer.resume()
    print(f"target: {num_parameters(model):,} parameters, {len(windows.stream):,} training tokens", flush=True)

    def evaluate(is_final: bool) -> str:
        part = texts if is_final else texts[:: max(1, len(texts) // QUICK_FILES)]
        which = f"all {len(part)}" if is_final else f"a sample of {len(part)}"
        return f"target: {bits_per_byte(model, tokenizer, part):.4f} bits per byte on {which} held-out files"

    trainer.run(evaluate, is_compiled=is_compiled)
