"""The shared tokenizer: byte-level BPE that llama.cpp's ``gpt2`` tokenizer with pre ``gpt-2`` repeats id for id."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from models.command import CommandError
from models.train.corpus import Split, read_texts
from services.frame.program.atomic_file import replacing

VOCABULARY_SIZE = 4096
BOS_TOKEN = "<|bos|>"
EOS_TOKEN = "<|endoftext|>"
BOS_ID = 0
EOS_ID = 1


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learn 4,096 tokens: the two control tokens, all 256 byte symbols, then merges in order of frequency."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[BOS_TOKEN, EOS_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_tokenizer(work_dir: Path) -> Tokenizer:
    """Train on the training files and write ``tokenizer.json`` under work_dir."""
    tokenizer = train_tokenizer(text for _, text in read_texts(work_dir, "train"))
    with replacing(work_dir / "tokenizer.json") as temporary:
        tokenizer.save(str(temporary))
    return tokenizer


def load_tokenizer(work_dir: Path) -> Tokenizer:
    """Load ``tokenizer.json``; user text is encoded with special tokens off, so no text can spell a control token.

    Raises FileNotFoundError where the tokenizer step has not run, CommandError for something else in its place.
    """
    path = work_dir / "tokenizer.json"
    content = path.read_bytes()
    try:
        tokenizer: Tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library has no narrower one
        raise CommandError(f"{path} is no tokenizer ({error}): python -m models.train tokenizer makes it") from error
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_documents(tokenizer: Tokenizer, texts: list[str], seed: int) -> npt.NDArray[np.uint16]:
    """Join documents in a seeded order into one stream: BOS, the document, EOS, BOS, the next document, ..."""
    order = np.random.default_rng(seed).permutation(len(texts))
    parts: list[npt.NDArray[np.uint16]] = []
    for index in order:
        ids = tokenizer.encode(texts[index], add_special_tokens=False).ids
        parts.append(np.asarray([BOS_ID, *ids, EOS_ID], dtype=np.uint16))
    return np.concatenate(parts)


def write_token_file(work_dir: Path, split: Split, seed: int) -> int:
    """Write ``<split>.bin`` (uint16, little-endian) under work_dir; return its number of tokens."""
    texts = [text for _, text in read_texts(work_dir, split)]
    stream = encode_documents(load_tokenizer(work_dir), texts, seed)
    with replacing(work_dir / f"{split}.bin") as temporary:
        stream.astype("<u2").tofile(temporary)
    return len(stream)


def open_token_file(path: Path) -> npt.NDArray[np.uint16]:
    """Map a token file into memory, read-only.

    Raises FileNotFoundError where the tokenizer step has not run, CommandError for something else in its place.
    """
    try:
        return np.memmap(path, dtype="<u2", mode="r")
    except ValueError as error:
        raise CommandError(f"{path} holds no tokens ({error}): python -m models.train tokenizer makes it") from error
