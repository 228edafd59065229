"""The bundled pair is what its card says, and its figures are of these very files."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader
from hypothesis import given
from hypothesis import strategies as st

import models
from services.engine.model.model import Model
from services.engine.model.vocabulary import Vocabulary

MEGABYTE = 1_000_000
PAIR = Path(models.__path__[0]) / "pair"
TARGET, DRAFT = PAIR / "target.gguf", PAIR / "draft.gguf"


@pytest.fixture(scope="module")
def vocabulary() -> Iterator[Vocabulary]:
    model = Model(TARGET)
    yield model.vocabulary
    model.close()


@pytest.fixture(scope="module")
def metrics() -> Any:
    return json.loads((PAIR / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("path", "limit"), [(TARGET, 32 * MEGABYTE), (DRAFT, 4 * MEGABYTE)])
def test_each_file_is_a_small_llama_that_starts_with_bos(path: Path, limit: int) -> None:
    assert path.stat().st_size <= limit
    fields = GGUFReader(path).fields
    assert fields["general.architecture"].contents() == "llama"
    assert fields["tokenizer.ggml.bos_token_id"].contents() == 0
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["llama.context_length"].contents() >= 2048


def test_both_have_one_tokenizer(vocabulary: Vocabulary) -> None:
    draft = Model(DRAFT)
    assert draft.vocabulary.fingerprint == vocabulary.fingerprint
    draft.close()


@given(st.text(max_size=200))
def test_any_text_round_trips(vocabulary: Vocabulary, text: str) -> None:
    assert vocabulary.detokenize(vocabulary.tokenize(text, add_bos=False, parse_special=False)) == text.encode()


@given(st.binary(max_size=200))
def test_any_bytes_have_tokens(vocabulary: Vocabulary, data: bytes) -> None:
    token_of = {entry.output: token for token, entry in enumerate(vocabulary.entries) if len(entry.output) == 1}
    assert vocabulary.detokenize([token_of[bytes([byte])] for byte in data]) == data


def test_the_figures_are_of_these_files(metrics: Any) -> None:
    for path, kind in ((TARGET, "target"), (DRAFT, "draft")):
        assert metrics[kind]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_target_writes_code(metrics: Any) -> None:
    assert metrics["target"]["bits_per_byte"] <= 1.30
    assert metrics["parse_rate"]["greedy"] >= 0.6


def test_the_target_seldom_repeats_itself(metrics: Any) -> None:
    assert metrics["repeated_8_grams"]["ratio"] <= 1.5


def test_the_draft_costs_a_fifth_of_the_target_at_most(metrics: Any) -> None:
    assert metrics["draft"]["ms_per_token"] <= 0.2 * metrics["target"]["ms_per_token"]


@pytest.mark.parametrize(("mode", "least"), [("greedy", 0.90), ("temperature_0.8", 0.76)])
def test_the_draft_is_accepted(metrics: Any, mode: str, least: float) -> None:
    assert metrics["acceptance"][mode]["4_draft_tokens"]["mean_of_first_4"] >= least
