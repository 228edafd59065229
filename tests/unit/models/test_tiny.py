"""The tiny random models: real tokenizers, the same bytes for the same seed, a draft that is part of its target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.llama_gguf import LlamaFile, read_llama
from models.tiny import BOS_ID, EOS_ID, byte_alphabet, tiny_vocabulary, write_tiny_model, write_tiny_pair


def test_a_pair_shares_its_tokenizer_and_the_draft_is_cheaper(tmp_path: Path) -> None:
    target, draft = (read_llama(path) for path in write_tiny_pair(tmp_path))

    assert target[2] == draft[2]
    assert draft[0].num_layers < target[0].num_layers
    assert target[0].context_length >= 512
    for name, values in draft[1].items():
        np.testing.assert_array_equal(values, target[1][name])


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    contents = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        contents.append([path.read_bytes() for path in write_tiny_pair(tmp_path / folder, seed=seed)])

    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


@pytest.mark.parametrize("size", [258, 512, 5_000, 151_936])
def test_a_vocabulary_has_the_size_asked_for_and_every_token_is_reachable(size: int) -> None:
    vocabulary = tiny_vocabulary(size)

    assert len(vocabulary.tokens) == len(set(vocabulary.tokens)) == size
    made = set(byte_alphabet())
    for merge in vocabulary.merges:
        left, right = merge.split(" ")
        assert left in made and right in made
        made.add(left + right)
    assert made == set(vocabulary.tokens) - {vocabulary.tokens[BOS_ID], vocabulary.tokens[EOS_ID]}


def test_a_vocabulary_without_all_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 258"):
        tiny_vocabulary(257)


def test_byte_alphabet_is_the_published_one() -> None:
    alphabet = byte_alphabet()

    assert len(set(alphabet)) == 256
    assert [alphabet[byte] for byte in b" \n\tA~"] == ["Ġ", "Ċ", "ĉ", "A", "~"]
    assert alphabet[0] == "Ā"
    assert alphabet[0xAD] == "Ń"
    assert alphabet[0xFF] == "ÿ"


def test_a_model_has_the_sizes_asked_for(tmp_path: Path) -> None:
    path = write_tiny_model(
        tmp_path / "m.gguf", dim=256, num_kv_heads=2, ffn=512, num_layers=1, is_tied=True, file_type="Q8_0"
    )
    file = LlamaFile(path)

    assert (file.config.dim, file.config.num_heads, file.config.num_kv_heads, file.config.ffn) == (256, 8, 2, 512)
    assert file.is_tied
    assert file.tensor_type("token_embd.weight") == "Q8_0"
