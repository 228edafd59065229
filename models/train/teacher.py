"""The target at work: reading corpus text and writing its own, into stores."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, multiprocessing
from torch.nn import functional as F

from models.train.model import TARGET_SHAPE, Decoder
from models.train.stores import Store, are_complete, mark_complete
from models.train.tokenizer import BOS_ID, open_token_file
from models.train.trainer import autocast, device

BATCH = 48
WRITTEN_PROMPT = 128
"""Corpus tokens before what the target writes."""
TEMPERATURES = (0.8, 0.8, 0.8, 0.0, 0.0, 1.0)
"""Batches take these in turn; 0 is greedy."""


def temperature_of(row: int) -> float:
    """Say at which temperature a row of a store was written."""
    return TEMPERATURES[row // BATCH % len(TEMPERATURES)]


@dataclass(frozen=True, slots=True)
class Portion:
    """One store to fill: rows of ``prompt`` corpus tokens, the rest written by the target (none where equal)."""

    store: Store
    prompt: int


def portions(num_written: int, num_read: int, num_long: int) -> list[Portion]:
    """The stores of the draft's training: text the target wrote, short and long corpus text."""
    dim = TARGET_SHAPE.dim
    return [
        Portion(Store("written", num_written, 384, dim), WRITTEN_PROMPT),
        Portion(Store("read", num_read, 512, dim), 512),
        Portion(Store("long", num_long, 2048, dim), 2048),
    ]


@torch.no_grad()
def write(model: Decoder, prompts: Tensor, length: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Continue prompts (batch, prompt) by sampling; return ids (batch, length) and states (batch, length, dim)."""
    batch, prompt = prompts.shape
    cache = model.new_cache(batch, length)
    ids = torch.zeros(batch, length, dtype=torch.int64, device=prompts.device)
    ids[:, :prompt] = prompts
    states = torch.zeros(batch, length, model.shape.dim, device=prompts.device)
    with autocast():
        states[:, :prompt] = model.states(prompts, cache)
        for position in range(prompt, length):
            logits = F.linear(states[:, position - 1], model.embedding).float()
            if temperature:
                noise = -torch.log(-torch.log(torch.rand_like(logits).clamp_(1e-9, 1 - 1e-7)))
                logits = logits / temperature + noise
            ids[:, position] = logits.argmax(-1)
            states[:, position] = model.states(ids[:, position : position + 1], cache, position)[:, 0]
    return ids, states


def _fill(
    model: Decoder, portion: Portion, work_dir: Path, folder: Path, next_batch: Any, seed: int, num_threads: int
) -> None:
    torch.set_num_threads(num_threads)
    stream = open_token_file(work_dir / "train.bin")
    all_ids, all_states = portion.store.open(folder, is_writable=True)
    length = portion.store.length
    batch = BATCH if portion.prompt < length else max(1, 4096 // length)
    while True:
        with next_batch.get_lock():
            index = next_batch.value
            next_batch.value += 1
        rows = slice(index * batch, min((index + 1) * batch, portion.store.num_rows))
        num_rows = rows.stop - rows.start
        if num_rows <= 0:
            return
        torch.manual_seed(seed * 1_000_003 + index)
        random = np.random.default_rng((seed, length, index))
        starts = random.integers(0, len(stream) - portion.prompt, num_rows)
        prompts = torch.from_numpy(np.stack([stream[s : s + portion.prompt] for s in starts]).astype(np.int64))
        prompts[:, 0] = BOS_ID
        ids, states = write(model, prompts.to(device()), length, temperature_of(rows.start))
        all_ids[rows], all_states[rows] = ids.cpu().numpy(), states.half().cpu().numpy()


def _digest(model: Decoder) -> str:
    """Tell targets apart, so that stores of an older one are not taken for the current one's."""
    return hashlib.sha256(model.embedding.detach().float().cpu().numpy().tobytes()).hexdigest()


def fill_stores(model: Decoder, wanted: list[Portion], work_dir: Path, seed: int) -> list[Store]:
    """Fill the stores under ``work_dir``/distil on one process per core, or find them filled; returns them."""
    folder = work_dir / "distil"
    stores = [portion.store for portion in wanted]
    digest = _digest(model)
    if are_complete(folder, stores, digest):
        return stores
    (folder / "complete.json").unlink(missing_ok=True)
    context: Any = multiprocessing.get_context("spawn")
    for portion in wanted:
        began = time.monotonic()
        portion.store.create(folder)
        next_batch = context.Value("i", 0)
        arguments = (model, portion, work_dir, folder, next_batch, seed)
        if device().type == "cuda":
            _fill(*arguments, 1)
        else:
            model.share_memory()
            processes = [context.Process(target=_fill, args=(*arguments, 1)) for _ in range(os.cpu_count() or 1)]
            for process in processes:
                process.start()
            for process in processes:
                process.join()
            if any(process.exitcode for process in processes):
                raise RuntimeError(f"writing the store {portion.store.name} failed; see the messages above")
        num_tokens = portion.store.num_rows * portion.store.length
        print(f"draft: store {portion.store.name}, {num_tokens:,} tokens, {time.monotonic() - began:.0f} s", flush=True)
    mark_complete(folder, stores, digest)
    return stores
