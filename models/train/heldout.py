"""Held-out bits per byte in PyTorch, over whole files, for the log of a run."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from models.train.model import CONTEXT
from models.train.tokenizer import BOS_ID
from models.train.trainer import autocast, device


@torch.no_grad()
def bits_per_byte(
    logits_of: Callable[[Tensor], Tensor], tokenizer: Tokenizer, texts: list[str], context: int = CONTEXT
) -> float:
    """Return the bits per UTF-8 byte of whole texts, cut into windows of ``context`` positions that share nothing.

    Every window starts with BOS, so a token is predicted from what its own window holds before it.
    """
    total_nats = 0.0
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        for start in range(0, len(ids), context - 1):
            window = torch.tensor([[BOS_ID, *ids[start : start + context - 1]]], device=device())
            with autocast():
                logits = logits_of(window[:, :-1])
            total_nats += float(F.cross_entropy(logits[0].float(), window[0, 1:], reduction="sum"))
    return total_nats / math.log(2) / sum(len(text.encode()) for text in texts)
