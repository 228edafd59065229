"""The tokenizer and the windows cut from its token files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from models.command import CommandError
from models.train.stores import Store, are_complete, mark_complete
from models.train.tokenizer import (
    BOS_ID,
    EOS_ID,
    EOS_TOKEN,
    VOCABULARY_SIZE,
    encode_documents,
    load_tokenizer,
    open_token_file,
    train_tokenizer,
)
from models.train.windows import Windows

TEXT = "def f(values):\n    return sum(values) / len(values)\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    trained = train_tokenizer([TEXT] * 4)
    trained.encode_special_tokens = True
    return trained


def test_control_tokens_come_first_and_every_byte_has_a_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_to_id(EOS_TOKEN) == EOS_ID == 1
    assert tokenizer.get_vocab_size() <= VOCABULARY_SIZE
    single = [token for token in tokenizer.get_vocab() if len(token) == 1]
    assert len(single) == 256


@pytest.mark.parametrize("text", [TEXT, " \t\r\n\x00", "é漢字😀\u200b", "".join(map(chr, range(256))), EOS_TOKEN])
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert not {BOS_ID, EOS_ID} & set(ids)


def test_documents_are_framed_and_shuffled_by_the_seed(tokenizer: Tokenizer) -> None:
    texts = [f"value_{number} = {number}\n" for number in range(20)]
    stream = encode_documents(tokenizer, texts, seed=1)
    assert np.array_equal(stream, encode_documents(tokenizer, texts, seed=1))
    assert not np.array_equal(stream, encode_documents(tokenizer, texts, seed=2))
    starts, ends = np.flatnonzero(stream == BOS_ID), np.flatnonzero(stream == EOS_ID)
    found = {tokenizer.decode(stream[a + 1 : b].tolist()) for a, b in zip(starts, ends, strict=True)}
    assert found == set(texts)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_files_that_are_something_else_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CommandError, match=r"tokenizer.json is no tokenizer .*: python -m models.train tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "train.bin").write_bytes(content[:1])
    with pytest.raises(CommandError, match=r"train.bin holds no tokens .*: python -m models.train tokenizer"):
        open_token_file(tmp_path / "train.bin")
    with pytest.raises(FileNotFoundError):
        load_tokenizer(tmp_path / "elsewhere")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff"])
def test_a_note_that_cannot_be_read_says_nothing(tmp_path: Path, content: bytes | None) -> None:
    stores = [Store("read", 2, 3, 4)]
    stores[0].create(tmp_path)
    mark_complete(tmp_path, stores, "digest")
    assert are_complete(tmp_path, stores, "digest")
    if content is None:
        (tmp_path / "read.states").write_bytes(b"half")
    else:
        (tmp_path / "complete.json").write_bytes(content)
    assert not are_complete(tmp_path, stores, "digest")


def consecutive(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint16]]:
    return np.arange(1, count + 1, dtype=np.uint16)


def drain(windows: Windows, count: int) -> Iterator[list[int]]:
    for _ in range(count):
        yield from windows.next(2, 8).tolist()


def test_windows_start_with_bos_and_go_on_as_the_stream_does() -> None:
    for row in drain(Windows(consecutive(100), seed=3), 20):
        assert row[0] == BOS_ID
        assert row[2:] == list(range(row[1] + 1, row[1] + 8))


def test_an_epoch_shows_no_token_twice() -> None:
    windows = Windows(consecutive(801), seed=3)
    shown = [token for row in drain(windows, 49) for token in row[1:]]
    assert len(shown) == len(set(shown))
    assert windows.epochs == pytest.approx(49 * 16 / 801)


def test_windows_follow_the_seed_and_differ_after_resuming() -> None:
    first, second, other = (Windows(consecutive(500), seed) for seed in (1, 1, 2))
    rows = first.next(4, 8).tolist()
    assert rows == second.next(4, 8).tolist()
    assert rows != other.next(4, 8).tolist()
    resumed = Windows(consecutive(500), 1)
    resumed.load_state_dict(first.state_dict())
    assert resumed.epochs == first.epochs
    assert resumed.next(4, 8).tolist() != rows
