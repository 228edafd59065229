"""The test vectors of docs/sampling.md: the file is what the reference makes, and the fast sampler agrees with it.

`python tests/unit/engine/sampling/test_vectors.py` writes the file anew, which only a new SAMPLER_VERSION calls for.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from services.engine.sampling import SAMPLER_VERSION, SamplingParams, kernel, noise, reference, sample_rows

VECTORS_PATH = Path(__file__).with_name("test_vectors.json")
CLEAR = 1e-9  # least distance from any tie that rounding could decide otherwise

SHORT = [2.5, -1.25, 0.0, 2.5, 1.75, -3.0, 0.5, 1.0, -0.125, 2.25, None, 0.875]
HISTORY = [0, 3, 3, 7, 11, 2, 0]
DRAFT = [9, 3, 4, 0]

# name, logits, first position, parameters
REQUESTS: list[tuple[str, dict[str, Any], int, SamplingParams]] = [
    ("greedy, tie to the lowest id", {"row": SHORT}, 7, SamplingParams()),
    ("greedy, bias", {"row": SHORT}, 7, SamplingParams(logit_bias={3: 0.5, 0: -100.0})),
    ("greedy, penalties", {"row": SHORT}, 7, SamplingParams(repetition_penalty=1.5, presence_penalty=0.25)),
    ("temperature 1", {"row": SHORT}, 7, SamplingParams(1.0, seed=1)),
    ("temperature 0.25", {"row": SHORT}, 7, SamplingParams(0.25, seed=2)),
    ("largest seed, far position", {"row": SHORT}, 2**31, SamplingParams(1.0, seed=2**64 - 1)),
    ("top-k, tie to the lower id", {"row": SHORT}, 7, SamplingParams(2.0, top_k=1, seed=3)),
    ("top-k", {"row": SHORT}, 7, SamplingParams(2.0, top_k=4, seed=4)),
    ("top-p", {"row": SHORT}, 7, SamplingParams(1.5, top_p=0.7, seed=5)),
    ("top-p of equal tokens, reached exactly", {"row": [0.0] * 8}, 7, SamplingParams(1.0, top_p=0.25, seed=36)),
    ("min-p", {"row": SHORT}, 7, SamplingParams(2.0, min_p=0.3, seed=7)),
    ("top-k, top-p, min-p", {"row": SHORT}, 7, SamplingParams(3.0, top_k=8, top_p=0.9, min_p=0.35, seed=8)),
    (
        "everything",
        {"row": SHORT},
        7,
        SamplingParams(0.9, 9, 0.95, 0.02, 1.2, 0.3, -0.2, 3, {1: 4.0, 9: -1.5}, seed=9),
    ),
    (
        "greedy, suppressed tokens, one with a bias",
        {"row": SHORT},
        7,
        SamplingParams(logit_bias={3: 100.0}, suppressed_tokens=frozenset({0, 3})),
    ),
    (
        "suppressed tokens, top-k, penalties",
        {"row": SHORT},
        7,
        SamplingParams(1.5, top_k=3, presence_penalty=0.5, suppressed_tokens=frozenset({0, 9}), seed=12),
    ),
    ("large vocabulary", {"size": 151_936, "state": 1}, 1000, SamplingParams(0.8, seed=10)),
    ("large vocabulary, top-p", {"size": 151_936, "state": 2}, 1000, SamplingParams(0.5, top_p=0.9, seed=11)),
]


def logits_of(description: dict[str, Any]) -> NDArray[np.float32]:
    """A row as given (None is -infinity), or `size` logits in [-8, 8) made of a SplitMix64 generator's outputs."""
    if "row" in description:
        return np.array([-np.inf if logit is None else logit for logit in description["row"]], np.float32)
    outputs = noise.mix(noise.counters(description["state"], np.arange(description["size"])))
    return ((outputs >> np.uint64(40)).astype(np.float64) / 2**20 - 8).astype(np.float32)


def fields_of(params: SamplingParams) -> dict[str, Any]:
    fields = asdict(params)
    # As text: a 64-bit integer does not survive every JSON reader, and an object's keys are text anyway.
    fields |= {"seed": str(params.seed), "logit_bias": {str(t): b for t, b in params.logit_bias.items()}}
    return fields | {"suppressed_tokens": sorted(params.suppressed_tokens)}


def params_of(fields: dict[str, Any]) -> SamplingParams:
    bias = {int(token): bias for token, bias in fields["logit_bias"].items()}
    suppressed = frozenset(fields["suppressed_tokens"])
    return SamplingParams(**fields | {"seed": int(fields["seed"]), "logit_bias": bias, "suppressed_tokens": suppressed})


def noise_vectors() -> list[dict[str, Any]]:
    vectors = []
    for seed, position, token in [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (1, 0, 0),
        (42, 1000, 151_935),
        (2**64 - 1, 2**31, 7),
    ]:
        key = noise.noise_key(seed, position)
        hashed = noise.splitmix64(key, token)
        vectors.append(
            {
                "seed": str(seed),
                "position": position,
                "token": token,
                "key": f"{key:016x}",
                "hash": f"{hashed:016x}",
                "u": noise.unit(hashed),
                "gumbel": noise.gumbel(key, token),
            }
        )
    return vectors


def request_vector(name: str, logits: dict[str, Any], first_position: int, params: SamplingParams) -> dict[str, Any]:
    row = logits_of(logits).tolist()
    num_rows = 1 if "size" in logits else len(DRAFT) + 1
    tokens = [
        reference.sample(row, first_position + index, params, HISTORY + DRAFT[:index]) for index in range(num_rows)
    ]
    return {
        "name": name,
        "logits": logits,
        "params": fields_of(params),
        "history": HISTORY,
        "draft_tokens": DRAFT[: num_rows - 1],
        "first_position": first_position,
        "tokens": tokens,
    }


def build() -> dict[str, Any]:
    return {
        "sampler_version": SAMPLER_VERSION,
        "splitmix64": [
            {"state": str(state), "index": index, "output": f"{noise.splitmix64(state, index):016x}"}
            for state, index in [(0, 0), (0, 1), (1234567, 0), (1234567, 4), (2**64 - 1, 2**31)]
        ],
        "noise": noise_vectors(),
        "requests": [request_vector(*request) for request in REQUESTS],
    }


@pytest.fixture(scope="module")
def stored() -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads(VECTORS_PATH.read_text())
    return vectors


def test_the_reference_makes_the_stored_vectors(stored: dict[str, Any]) -> None:
    made = build()
    for vector, remade in zip(stored["noise"], made["noise"], strict=True):
        # A logarithm may differ in its last bit between C libraries; everything else is exact.
        assert vector.pop("gumbel") == pytest.approx(remade.pop("gumbel"), rel=1e-14)
    assert made == stored


@pytest.mark.parametrize("is_compiled", sorted({kernel.IS_COMPILED, False}))
@pytest.mark.parametrize("index", range(len(REQUESTS)), ids=[request[0] for request in REQUESTS])
def test_the_fast_sampler_agrees(
    stored: dict[str, Any], index: int, is_compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "IS_COMPILED", is_compiled)
    vector = stored["requests"][index]
    logits = np.tile(logits_of(vector["logits"]), (len(vector["tokens"]), 1))
    params = params_of(vector["params"])
    params.validate(logits.shape[1])
    tokens = sample_rows(logits, vector["first_position"], params, vector["history"], vector["draft_tokens"])
    assert tokens.tolist() == vector["tokens"]


@pytest.mark.parametrize("index", range(len(REQUESTS)), ids=[request[0] for request in REQUESTS])
def test_no_vector_hangs_on_rounding(stored: dict[str, Any], index: int) -> None:
    """Another language's logarithm and exponential may round otherwise."""
    vector, params = stored["requests"][index], REQUESTS[index][3]
    if params.temperature == 0:
        return
    row = logits_of(vector["logits"]).tolist()
    for row_index, token in enumerate(vector["tokens"]):
        key = noise.noise_key(params.seed, vector["first_position"] + row_index)
        values = reference.adjusted_logits(row, params, HISTORY + DRAFT[:row_index])
        kept = reference.candidates(values, params)
        scores = sorted(z + noise.gumbel(key, candidate) for z, candidate in kept)
        assert len(scores) == 1 or scores[-1] - scores[-2] > CLEAR
        assert token in {candidate for _, candidate in kept}
        # A slightly different threshold keeps the same candidates, except among equal ones, whose masses are exact.
        if len({z for z, _ in kept}) > 1:
            for factor in (1 - CLEAR, 1 + CLEAR):
                top_p = params.top_p * factor if params.top_p < 1 else 1.0
                assert reference.candidates(values, replace(params, top_p=top_p, min_p=params.min_p * factor)) == kept


if __name__ == "__main__":
    VECTORS_PATH.write_text(json.dumps(build(), indent=1) + "\n")
