"""Writing the trained pair as GGUF files, with the corpus manifest beside them."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from models.command import CommandError
from models.llama_gguf import ModelFileError, Vocabulary, write_llama
from models.train.corpus import CorpusFile, read_manifest
from models.train.llama import llama_config, llama_tensors
from models.train.model import DRAFT_SHAPE, TARGET_SHAPE, ModelShape
from models.train.tokenizer import BOS_ID, EOS_ID, load_tokenizer
from models.train.trainer import reading
from services.frame.program.atomic_file import replacing

FILE_TYPES = {"target": "F16", "draft": "Q8_0"}
"""By measured loss and cost: F16 loses nothing and leaves the draft at most a fifth of the target's time."""
METADATA = {
    "general.license": "apache-2.0",
    "general.description": "Continues Python code; one half of a pair for speculative decoding",
}


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
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


def export_model(work_dir: Path, name: str, shape: ModelShape, path: Path, file_type: str) -> None:
    """Write one of the two models trained together.

    Raises FileNotFoundError where that has not run, CommandError where what is there is something else or unwritable.
    """
    checkpoint = work_dir / "together.pt"
    with reading(checkpoint):
        pair = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
        state = {key.removeprefix(f"{name}."): value for key, value in pair.items() if key.startswith(f"{name}.")}
    try:
        write_llama(
            path,
            llama_config(shape),
            llama_tensors(shape, state),
            vocabulary_of(load_tokenizer(work_dir)),
            name=f"outrider-{name}",
            file_type=file_type,
            metadata=METADATA,
        )
    except ModelFileError as error:
        raise CommandError(f"{checkpoint} cannot be written as {path}: {error}") from error


def export_pair(work_dir: Path, folder: Path) -> None:
    """Write ``target.gguf``, ``draft.gguf`` and ``corpus.json.gz`` into a folder. Raises as `export_model` does."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in (("target", TARGET_SHAPE), ("draft", DRAFT_SHAPE)):
        path = folder / f"{name}.gguf"
        export_model(work_dir, name, shape, path, FILE_TYPES[name])
        print(f"export: {path.name}, {path.stat().st_size / 1e6:.1f} MB")
    write_manifest(read_manifest(work_dir), folder / "corpus.json.gz")
