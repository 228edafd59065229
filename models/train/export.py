"""Writing the trained pair as GGUF files, with the corpus manifest beside them."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from models.llama_gguf import LlamaConfig, Vocabulary, write_llama
from models.train.corpus import CorpusFile, read_manifest
from models.train.model import CONTEXT, DRAFT_SHAPE, HEAD_SIZE, NORM_EPSILON, ROPE_BASE, TARGET_SHAPE, ModelShape
from models.train.tokenizer import BOS_ID, EOS_ID, load_tokenizer

FILE_TYPES = {"target": "F16", "draft": "Q8_0"}
"""By measured loss and cost: F16 loses nothing and leaves the draft at most a fifth of the target's time."""
SHARE = 0.4
"""How far to go from the models trained alone to those trained together (Wortsman et al. 2022, arXiv 2109.01903).

All the way draft and target agree most, but greedy text seldom parses; on the way there the first comes sooner.
"""
METADATA = {
    "general.license": "apache-2.0",
    "general.description": "Continues Python code; one half of a pair for speculative decoding",
}


def llama_config(shape: ModelShape) -> LlamaConfig:
    """Describe a trained shape as the GGUF writer wants it."""
    return LlamaConfig(
        dim=shape.dim,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        ffn=shape.ffn,
        vocab_size=shape.vocabulary,
        context_length=CONTEXT,
        rms_eps=NORM_EPSILON,
        rope_theta=ROPE_BASE,
    )


def llama_tensors(shape: ModelShape, state: dict[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    """Take the fused matrices of a trained state apart into llama's tensors.

    No rows are permuted: training turns neighbouring pairs, as llama.cpp does for this architecture.
    """
    if shape.dim != shape.num_heads * HEAD_SIZE:
        raise ValueError(f"dim {shape.dim} must be {HEAD_SIZE} times the number of heads, {shape.num_heads}")
    tensors = {"token_embd.weight": state["embedding"], "output_norm.weight": state["norm"]}
    for layer in range(shape.num_layers):
        part, block = f"blocks.{layer}.", f"blk.{layer}."
        if part + "qkv" in state:
            query, key, value = state[part + "qkv"]
        else:
            query, (key, value) = state[part + "query"], state[part + "key_value"]
        gate, up = state[part + "gate_up"]
        tensors |= {
            block + "attn_norm.weight": state[part + "attn_norm"],
            block + "attn_q.weight": query,
            block + "attn_k.weight": key,
            block + "attn_v.weight": value,
            block + "attn_output.weight": state[part + "out"],
            block + "ffn_norm.weight": state[part + "ffn_norm"],
            block + "ffn_gate.weight": gate,
            block + "ffn_up.weight": up,
            block + "ffn_down.weight": state[part + "down"],
        }
    return {name: tensor.float().cpu().numpy() for name, tensor in tensors.items()}


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Read tokens and merges out of a trained byte-level BPE tokenizer."""
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    ids: dict[str, int] = model["vocab"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Vocabulary(tokens=sorted(ids, key=ids.__getitem__), merges=merges, bos_id=BOS_ID, eos_id=EOS_ID)


def compact_manifest(files: list[CorpusFile]) -> dict[str, Any]:
    """Group the manifest by package: licence, and [path, bytes] of every file by split."""
    packages: dict[str, dict[str, Any]] = defaultdict(lambda: {"train": [], "held_out": []})
    for file in files:
        package, path = file.path.split("/", 1)
        packages[package]["licence"] = file.licence
        packages[package][file.split].append([path, file.num_bytes])
    return dict(sorted(packages.items()))


def write_manifest(files: list[CorpusFile], path: Path) -> None:
    """Write the compact manifest gzipped, the same bytes for the same files."""
    text = json.dumps(compact_manifest(files), indent=None, separators=(",", ":"))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def on_the_way(alone: dict[str, Tensor], together: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights that lie SHARE of the way from one state to the other."""
    return {key: torch.lerp(value.float(), together[key].float(), SHARE) for key, value in alone.items()}


def export_model(work_dir: Path, name: str, shape: ModelShape, path: Path, file_type: str) -> None:
    """Write one model: its weights lie between those of its own training and those of the training together.

    Raises FileNotFoundError where one of them has not run, ModelFileError if unwritable.
    """
    alone, both = (
        torch.load(work_dir / f"{step}.pt", map_location="cpu", weights_only=True)["model"]
        for step in (name, "together")
    )
    state = on_the_way(alone, {key: both[f"{name}.{key}"] for key in alone})
    write_llama(
        path,
        llama_config(shape),
        llama_tensors(shape, state),
        vocabulary_of(load_tokenizer(work_dir)),
        name=f"outrider-{name}",
        file_type=file_type,
        metadata=METADATA,
    )


def export_pair(work_dir: Path, folder: Path) -> None:
    """Write ``target.gguf``, ``draft.gguf`` and ``corpus.json.gz`` into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in (("target", TARGET_SHAPE), ("draft", DRAFT_SHAPE)):
        path = folder / f"{name}.gguf"
        export_model(work_dir, name, shape, path, FILE_TYPES[name])
        print(f"export: {path.name}, {path.stat().st_size / 1e6:.1f} MB")
    write_manifest(read_manifest(work_dir), folder / "corpus.json.gz")
