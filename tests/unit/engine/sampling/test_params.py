from __future__ import annotations

import math
import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from services.engine.sampling import SamplingError, SamplingParams
from services.engine.sampling.adjust import has_penalties
from services.engine.sampling.params import (
    MAX_BIAS,
    MAX_NUM_BIASES,
    MAX_PENALTY,
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
)

VOCABULARY_SIZE = 100


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05),
        SamplingParams(temperature=100.0, top_p=1.0, min_p=0.0),
        SamplingParams(temperature=1e-6, top_k=10**9),
        SamplingParams(repetition_penalty=0.5, presence_penalty=-100.0, frequency_penalty=100.0, penalty_last_n=0),
        SamplingParams(logit_bias={0: -100.0, VOCABULARY_SIZE - 1: 100.0}),
        SamplingParams(seed=2**64 - 1, penalty_last_n=2**32 - 1),
        SamplingParams(suppressed_tokens=frozenset(range(1, VOCABULARY_SIZE))),
    ],
)
def test_accepts_what_can_be_honoured(params: SamplingParams) -> None:
    params.validate(VOCABULARY_SIZE)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, value) for name in ("temperature", "top_p", "min_p") for value in (math.nan, math.inf, -0.1)],
        *[
            (name, value)
            for name in ("repetition_penalty", "presence_penalty", "frequency_penalty")
            for value in (math.nan, math.inf, -math.inf, 101.0, -101.0)
        ],
        ("temperature", 100.1),
        ("temperature", 1e-7),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.0),
        ("repetition_penalty", 0.0),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", True),
        ("penalty_last_n", -1),
        ("seed", -1),
        ("seed", 2**64),
        ("suppressed_tokens", frozenset({3, VOCABULARY_SIZE})),
        ("suppressed_tokens", frozenset({-1})),
        ("logit_bias", {VOCABULARY_SIZE: 0.0}),
        ("logit_bias", {-1: 0.0}),
        ("logit_bias", {3: math.nan}),
        ("logit_bias", {3: -math.inf}),
        ("logit_bias", {3: 100.5}),
    ],
)
def test_refuses_with_a_sentence_that_names_the_field(field: str, value: object) -> None:
    params = SamplingParams(**{field: value})  # type: ignore[arg-type]
    with pytest.raises(SamplingError, match=f"^{field} .*(must|names)") as refused:
        params.validate(VOCABULARY_SIZE)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "rules"),
    [
        ("temperature", [f"in [{MIN_TEMPERATURE:f}, {MAX_TEMPERATURE:g}]"]),
        ("top_p", ["in (0, 1]"]),
        ("min_p", ["in [0, 1)"]),
        ("repetition_penalty", [f"in [{1 / MAX_PENALTY:g}, {MAX_PENALTY:g}]"]),
        ("presence_penalty", [f"in [{-MAX_PENALTY:g}, {MAX_PENALTY:g}]"]),
        ("frequency_penalty", [f"in [{-MAX_PENALTY:g}, {MAX_PENALTY:g}]"]),
        ("logit_bias", [f"at most {MAX_NUM_BIASES} tokens", f"in [{-MAX_BIAS:g}, {MAX_BIAS:g}]"]),
        ("seed", ["64 bits"]),
    ],
)
def test_the_protocol_names_the_range(field: str, rules: list[str]) -> None:
    protocol = (Path(__file__).parents[4] / "protos" / "outrider" / "v1" / "common.proto").read_text()
    sampling = protocol.partition("message Sampling {")[2].partition("\n}")[0]
    comment = re.search(rf"((?: *//.*\n)+) *(?:\w|[<>, ])+ {field} = ", sampling)
    assert comment, sampling
    assert all(rule in comment[1] for rule in rules), comment[1]


def test_something_must_be_left_to_choose() -> None:
    with pytest.raises(SamplingError, match="suppressed_tokens leaves no token"):
        SamplingParams(suppressed_tokens=frozenset(range(5))).validate(5)


def test_is_frozen_and_hashable() -> None:
    params = SamplingParams(logit_bias={1: 2.0})
    with pytest.raises(FrozenInstanceError):
        params.temperature = 1.0  # type: ignore[misc]
    assert hash(params) == hash(SamplingParams(logit_bias={1: 2.0}))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(), False),
        (SamplingParams(repetition_penalty=1.1), True),
        (SamplingParams(presence_penalty=-0.1), True),
        (SamplingParams(frequency_penalty=0.1, penalty_last_n=0), False),
        (SamplingParams(top_k=1), False),
    ],
)
def test_knows_whether_penalties_are_on(params: SamplingParams, expected: bool) -> None:
    assert has_penalties(params) == expected


def test_biases_of_so_many_tokens_and_no_more() -> None:
    most = dict.fromkeys(range(MAX_NUM_BIASES), 1.0)
    SamplingParams(logit_bias=most).validate(MAX_NUM_BIASES + 1)
    with pytest.raises(SamplingError, match=f"names {MAX_NUM_BIASES + 1} tokens, but at most {MAX_NUM_BIASES}"):
        SamplingParams(logit_bias=most | {MAX_NUM_BIASES: 1.0}).validate(MAX_NUM_BIASES + 1)
