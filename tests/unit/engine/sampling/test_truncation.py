"""What top-k, top-p and min-p leave, against the reference: the same candidates, wherever the edge lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.engine.sampling import SamplingParams, kernel, nucleus, reference
from services.engine.sampling.adjust import adjusted
from services.engine.sampling.truncate import edge_of_candidates
from tests.unit.engine.sampling.candidates import candidates_of


@pytest.fixture(params=sorted({kernel.IS_COMPILED, False}), ids={True: "compiled", False: "numpy"}.get)
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiled pass and without."""
    monkeypatch.setattr(kernel, "IS_COMPILED", request.param)


def check_candidates(logits: NDArray[np.float32], params: SamplingParams) -> None:
    expected = reference.candidates(reference.adjusted_logits(logits.tolist(), params, []), params)
    assert candidates_of(logits, params) == expected


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("size", [200, 3000, 20_000])
@pytest.mark.parametrize("spread", [0.0, 0.02, 1.0, 4.0])
def test_truncation_keeps_the_same_candidates(size: int, spread: float) -> None:
    """Narrow rows and wide ones, with ties and without."""
    rng = np.random.default_rng([size, int(spread * 100)])
    plain = rng.normal(0, spread, size).astype(np.float32)
    for logits in (plain, (np.round(plain * 4) / 4).astype(np.float32)):
        for top_p in (0.2, 0.7, 0.95, 0.9999):
            check_candidates(logits, SamplingParams(0.9, top_p=top_p, min_p=0.001))
            check_candidates(logits, SamplingParams(0.9, top_p=top_p, top_k=2 * size // 3))
        check_candidates(logits, SamplingParams(0.9, top_k=50, min_p=0.1))


@pytest.mark.usefixtures("either_way")
def test_a_nucleus_under_a_best_value_that_is_no_float32() -> None:
    """Mass is relative to the best value's; taken in float32 it would be off by 5 % here."""
    logits = np.random.default_rng(6).normal(1e4, 0.02, 20_000).astype(np.float32)
    for bias in np.linspace(0.0002, 0.0008, 5).tolist():
        check_candidates(logits, SamplingParams(0.01, top_p=0.5, logit_bias={int(logits.argmax()): bias}))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("is_peaked", [False, True])
def test_top_p_at_its_very_edge(is_peaked: bool) -> None:
    """Shares so close to what some prefix holds that an estimate of the mass cannot tell on which side they lie."""
    rng = np.random.default_rng(8)
    logits = rng.normal(0, 1.5, 10_000).astype(np.float32)
    if is_peaked:
        # All but ten ids have less than one unit of mass, which counts as none, though their sum is not small.
        logits = np.append(np.arange(0, -10, -1), np.log(rng.uniform(0.5, 0.95, 9_990) * 2**-44)).astype(np.float32)
    masses = [math.floor(2**44 * math.exp(logit - logits.max())) for logit in sorted(logits.tolist(), reverse=True)]
    sums = np.cumsum(masses)
    for length in (1, 2, 3, 5, 7, 9) if is_peaked else (1, 3, 10, 30, 100, 300, 1000):
        for distance in (-1e-7, -1e-8, -1e-9, -1e-10, 1e-10, 1e-9, 1e-8, 1e-7):
            share = float(sums[length - 1]) / float(sums[-1]) * (1 + distance)
            if share < 1:
                check_candidates(logits, SamplingParams(1.0, top_p=share))


def test_min_p_at_its_very_edge() -> None:
    """Thresholds within a few units in the last place of a candidate's own probability."""
    rng = np.random.default_rng(7)
    for _ in range(300):
        best, temperature = float(np.float32(rng.uniform(-50, 50))), float(rng.uniform(0.1, 3))
        logits = np.array([best, best - rng.uniform(0, 5), -99], np.float32)
        edge = math.exp((float(logits[1]) - best) / temperature)
        for ulps in range(-3, 4):
            check_candidates(logits, SamplingParams(temperature, min_p=edge + ulps * math.ulp(edge)))


@st.composite
def tied_requests(draw: st.DrawFn) -> tuple[NDArray[np.float32], SamplingParams]:
    """Rows of few values, many of them equal; biased ids that tie with others; shares that whole ties just reach."""
    size = draw(st.sampled_from([1, 2, 7, 100, 5000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    step = draw(st.sampled_from([0.0, 1e-6, 0.01, 0.25, 1.0, 8.0, 1e4]))
    offset = draw(st.sampled_from([0.0, -1e-3, 20.0, 1e4, -3e7]))
    logits = (offset - step * rng.integers(0, draw(st.integers(1, 12)), size)).astype(np.float32)
    if draw(st.booleans()):
        logits[rng.random(size) < 0.3] = -np.inf
        logits[rng.integers(size)] = np.float32(offset)
    bias = draw(st.lists(st.sampled_from([0.0, step, -step, 2 * step, 1e-13, -1e-13, 0.1]), max_size=4))
    temperature = draw(st.sampled_from([1e-6, 0.1, 1 / 3, 0.8, 1.0, 1.7, 100.0]))
    plain = SamplingParams(
        temperature, logit_bias={int(rng.integers(size)): min(max(value, -100.0), 100.0) for value in bias}
    )
    kept = reference.candidates(reference.adjusted_logits(logits.tolist(), plain, []), plain)
    masses = np.cumsum([math.floor(math.exp(z - kept[0][0]) * 2**44) for z, _ in kept])
    share = float(masses[draw(st.integers(0, len(kept) - 1))] / masses[-1])
    share = draw(st.sampled_from([share, np.nextafter(share, 0), np.nextafter(share, 1), 0.5, 0.95, 1 - 1e-12]))
    min_p = draw(st.sampled_from([0.0, 0.0, 0.3, math.exp(-step / temperature)]))
    params = SamplingParams(
        temperature,
        top_k=draw(st.sampled_from([0, 0, 1, 3, size])),
        top_p=min(max(float(share), 1e-9), 1.0),
        min_p=min_p if 0 <= min_p < 1 else 0.0,
        logit_bias=plain.logit_bias,
    )
    params.validate(size)
    return logits, params


@given(tied_requests())
def test_ties_are_kept_as_the_reference_keeps_them(request: tuple[NDArray[np.float32], SamplingParams]) -> None:
    check_candidates(*request)


@pytest.mark.parametrize("temperature", [0.3, 0.8, 5.0])
@pytest.mark.parametrize("peak", [0.0, 8.0])
@pytest.mark.skipif(not kernel.IS_COMPILED, reason="the compiled passes were not built")
def test_one_compiled_pass_finds_the_edge_of_ordinary_rows(
    temperature: float, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the mass of every id; which it needs where the edge is too close to call, and then it says so."""
    rng = np.random.default_rng(9)
    logits = rng.normal(0, 2, 50_000).astype(np.float32)
    logits[:20] += np.float32(peak)
    exact = nucleus.edge_of
    params = [SamplingParams(temperature, top_p=top_p) for top_p in (0.1, 0.5, 0.9, 0.95, 0.999)]
    z = logits.astype(np.float64) / temperature
    expected = [exact(np.arange(logits.size), z, each.top_p) for each in params]
    num_exact = 0

    def counted(*arguments: object) -> nucleus.Edge:
        nonlocal num_exact
        num_exact += 1
        return exact(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(nucleus, "edge_of", counted)
    row, best = adjusted(logits, params[0], {}), float(z.max())
    found = [edge_of_candidates(row, best, each) for each in params]
    assert found == expected
    assert num_exact == 0
    sums = np.cumsum(np.floor(np.exp(np.sort(z)[::-1] - z.max()) * 2.0**44))
    on_the_edge = SamplingParams(temperature, top_p=float(sums[1000] / sums[-1]))
    assert edge_of_candidates(row, best, on_the_edge) == exact(np.arange(logits.size), z, on_the_edge.top_p)
    assert num_exact == 1
