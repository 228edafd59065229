"""The tiny random models: real tokenizers, the same bytes for the same seed, a draft that is part of its target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.evaluate.runs import choices_along, generate
from models.llama_gguf import LlamaFile, read_llama
from models.tiny import BOS_ID, EOS_ID, byte_alphabet, tiny_vocabulary, write_tiny_model, write_tiny_pair
from services.engine.model.model import Model
from services.engine.runtime.runtime import LlamaRuntime, RuntimeOptions
from services.engine.sampling import SamplingParams


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


def greedy_text(path: Path, draft: Path, num_tokens: int = 96) -> tuple[list[int], list[int]]:
    """What a model writes, and what its draft would choose at each of these positions."""
    options = RuntimeOptions(num_slots=1, context_length=256, num_threads=1)
    models = [Model(path), Model(draft)]
    runtimes = [LlamaRuntime(model, options) for model in models]
    prompt = models[0].vocabulary.tokenize("def main():\n", add_bos=True, parse_special=False)
    (text,) = generate(runtimes[0], [prompt], num_tokens, [SamplingParams()], models[0].vocabulary.end_of_generation)
    choices = choices_along(runtimes[1], [*prompt, *text], len(prompt), SamplingParams()).tolist()
    for closed in (*runtimes, *models):
        closed.close()
    return text, choices


def test_a_target_writes_varied_text_with_which_its_draft_mostly_agrees(tmp_path: Path) -> None:
    text, choices = greedy_text(*write_tiny_pair(tmp_path))

    assert len(text) == 96
    assert len(set(text)) > 30
    agreement = sum(choice == token for choice, token in zip(choices, text, strict=True)) / len(text)
    assert 0.5 < agreement < 0.95


def test_agreement_can_be_made_complete(tmp_path: Path) -> None:
    text, choices = greedy_text(*write_tiny_pair(tmp_path, agreement=1.0))

    assert text == choices


def test_text_is_tokenized_into_merges_and_back(tmp_path: Path) -> None:
    target, _ = write_tiny_pair(tmp_path)
    model = Model(target)
    text = "def reason(state):\n    return \x00 \u00e9 \U0001f600"
    tokens = model.vocabulary.tokenize(text, add_bos=True, parse_special=False)

    assert tokens[0] == BOS_ID
    assert len(tokens) < len(text.encode())
    assert model.vocabulary.detokenize(tokens[1:]).decode() == text
    model.close()
