"""How often draft and target choose the same token, in PyTorch, for the log of a run."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.train.model import Decoder
from models.train.teacher import write
from models.train.tokenizer import BOS_ID
from models.train.trainer import autocast, device

NUM_PROMPTS = 32
PROMPT = 128
WRITTEN = 96
NUM_DRAWS = 4


def held_out_texts(target: Decoder, stream: npt.NDArray[np.uint16], seed: int) -> list[tuple[Tensor, float]]:
    """Let the target continue held-out prompts greedily and at temperature 0.8: [(ids, 0.0), (ids, 0.8)]."""
    starts = np.random.default_rng(seed).integers(0, len(stream) - PROMPT, NUM_PROMPTS)
    prompts = torch.from_numpy(np.stack([stream[s : s + PROMPT] for s in starts]).astype(np.int64)).to(device())
    prompts[:, 0] = BOS_ID
    return [(write(target, prompts, PROMPT + WRITTEN, t)[0], t) for t in (0.0, 0.8)]


@torch.no_grad()
def agreement(target: Decoder, draft: Decoder, ids: Tensor, temperature: float) -> float:
    """Return the share of written positions at which both choose the same token under shared Gumbel noise.

    Every position is given the text the target wrote, as in a cycle whose earlier draft tokens were accepted.
    """
    with autocast():
        wanted, found = (model(ids)[:, PROMPT - 1 : -1].float() for model in (target, draft))
    if temperature == 0:
        return float((wanted.argmax(-1) == found.argmax(-1)).float().mean())
    shares = []
    for _ in range(NUM_DRAWS):
        noise = -torch.log(-torch.log(torch.rand_like(wanted).clamp_(1e-9, 1 - 1e-7)))
        same = (wanted / temperature + noise).argmax(-1) == (found / temperature + noise).argmax(-1)
        shares.append(float(same.float().mean()))
    return sum(shares) / len(shares)
