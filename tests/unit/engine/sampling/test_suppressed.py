"""Suppressed tokens are never chosen, whatever else is asked for; and no parameter is read by nobody."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from outrider.v1 import common_pb2
from services.engine import wire
from services.engine.sampling import (
    SamplingParams,
    kernel,
    log_probabilities,
    reference,
    sample,
    sample_rows,
    sample_with_confidence,
)
from services.frame.rpc.errors import ServiceError

SIZE = 3000
LOGITS = np.random.default_rng(7).normal(0, 2, SIZE).astype(np.float32)
BEST = [int(token) for token in np.argsort(-LOGITS)[:8]]
HISTORY = [*BEST[4:], BEST[5], 1, 2]
NUM_POSITIONS = 40
MODES = {
    "greedy": SamplingParams(),
    "greedy, penalties": SamplingParams(repetition_penalty=0.5, presence_penalty=-3.0),
    "no truncation": SamplingParams(0.5),
    "top-k": SamplingParams(0.5, top_k=10),
    "top-p": SamplingParams(0.5, top_p=0.8),
    "min-p": SamplingParams(0.5, min_p=0.1),
    "everything": SamplingParams(0.5, 40, 0.9, 0.01, 0.8, -0.5, -0.5),
}


@pytest.mark.parametrize("is_compiled", sorted({kernel.IS_COMPILED, False}))
@pytest.mark.parametrize("mode", MODES)
def test_they_are_never_chosen(monkeypatch: pytest.MonkeyPatch, mode: str, is_compiled: bool) -> None:
    monkeypatch.setattr(kernel, "IS_COMPILED", is_compiled)
    # The most probable ids, those of the penalty window among them, and one that is as probable as a bias can make it.
    suppressed = frozenset(BEST[:6])
    params = replace(MODES[mode], suppressed_tokens=suppressed, logit_bias={BEST[1]: 100.0})
    before = LOGITS.copy()
    for position in range(NUM_POSITIONS):
        expected = reference.sample(LOGITS.tolist(), position, params, HISTORY) if position < 3 else None
        token = sample(LOGITS, position, params, HISTORY)
        assert token not in suppressed
        assert expected in (token, None)
        assert sample_with_confidence(LOGITS, position, params, HISTORY)[0] == token
        assert sample_rows(LOGITS[np.newaxis], position, params, HISTORY, []).tolist() == [token]
    assert (before == LOGITS).all(), "the row is the model's"


def test_ids_that_this_model_lacks_are_passed_over() -> None:
    params = SamplingParams(suppressed_tokens=frozenset({BEST[0], SIZE, SIZE + 5}))
    assert sample(LOGITS, 0, params, []) == BEST[1]


def test_what_is_reported_is_of_the_raw_logits() -> None:
    params = SamplingParams(suppressed_tokens=frozenset({BEST[0]}))
    raw = log_probabilities(LOGITS, BEST[1], 0)[0]
    assert np.log(sample_with_confidence(LOGITS, 0, params, [])[1]) == pytest.approx(raw)


WARM = common_pb2.Sampling(temperature=0.7, seed=5)
PENALISED = common_pb2.Sampling(temperature=0.7, seed=5, presence_penalty=3.0)
# Of each field, parameters and the same with another value of it, which choose other tokens.
CHANGES: dict[str, tuple[common_pb2.Sampling, common_pb2.Sampling]] = {
    "temperature": (WARM, common_pb2.Sampling(temperature=1.5)),
    "top_k": (WARM, common_pb2.Sampling(top_k=2)),
    "top_p": (WARM, common_pb2.Sampling(top_p=0.1)),
    "min_p": (WARM, common_pb2.Sampling(min_p=0.5)),
    "repetition_penalty": (WARM, common_pb2.Sampling(repetition_penalty=0.5)),
    "presence_penalty": (WARM, common_pb2.Sampling(presence_penalty=-5.0)),
    "frequency_penalty": (WARM, common_pb2.Sampling(frequency_penalty=-5.0)),
    "penalty_last_n": (PENALISED, common_pb2.Sampling(penalty_last_n=0)),
    "logit_bias": (WARM, common_pb2.Sampling(logit_bias={7: 20.0})),
    "seed": (WARM, common_pb2.Sampling(seed=6)),
    "suppressed_tokens": (WARM, common_pb2.Sampling(suppressed_tokens=BEST[:3])),
}


def _chosen(sampling: common_pb2.Sampling) -> list[int]:
    params = wire.checked_sampling(sampling, SIZE)
    return [sample(LOGITS, position, params, HISTORY) for position in range(NUM_POSITIONS)]


def test_every_parameter_has_a_case() -> None:
    """Whoever adds one finds the places that it touches in docs/sampling.md."""
    assert CHANGES.keys() == {field.name for field in common_pb2.Sampling.DESCRIPTOR.fields}
    assert CHANGES.keys() == {field.name for field in fields(SamplingParams)}


@pytest.mark.parametrize("field", CHANGES)
def test_every_parameter_is_read(field: str) -> None:
    before, change = CHANGES[field]
    after = common_pb2.Sampling()
    after.CopyFrom(before)
    after.MergeFrom(change)
    assert _chosen(before) == _chosen(before)
    assert _chosen(after) != _chosen(before)


def test_a_request_may_suppress_so_many_and_the_model_any_number() -> None:
    own = frozenset(range(5000))
    assert wire.checked_sampling(common_pb2.Sampling(), 10_000, own).suppressed_tokens is own
    asked = common_pb2.Sampling(suppressed_tokens=range(4990, 5010))
    assert wire.checked_sampling(asked, 10_000, own).suppressed_tokens == frozenset(range(5010))
    asked.suppressed_tokens.extend([1] * 4096)
    with pytest.raises(ServiceError, match="suppressed_tokens names 4116 tokens, but at most 4096 are taken"):
        wire.checked_sampling(asked, 10_000)
