"""The page that Prometheus fetches: our own names, and those of vLLM."""

from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import httpx2
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from orchestrator.generation.instruments import GenerationInstruments
from orchestrator.generation.service import Load
from orchestrator.generation.statistics import Statistics
from outrider.v1 import generation_pb2
from services.frame.program.api_keys import ApiKeys
from services.frame.telemetry import Telemetry, configure_telemetry
from tests.unit.orchestrator.http.scripted_face import face

LABELS = {"model_name": "big", "engine": "0"}
ALICE = "alice-0123456789"


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """As of an orchestrator with a page and no exporter."""
    configured = configure_telemetry("outrider-orchestrator", has_page=True)
    yield configured
    configured.shutdown()


@pytest.fixture
def instruments(telemetry: Telemetry) -> GenerationInstruments:
    return GenerationInstruments(telemetry, lambda: 3, lambda: 0.0, lambda: 0.0)


async def record(instruments: GenerationInstruments) -> None:
    """Two requests, of which one is answered: 5 draft tokens of the draft model and 3 of lookup, 4 and 1 accepted."""

    async def chunks() -> AsyncGenerator[int, None]:
        for number in range(4):
            yield number

    statistics = Statistics(
        4,
        Counter(remote=2, ngram=1),
        Counter(remote=5, ngram=3),
        Counter(remote=4, ngram=1),
        num_accepted_per_position=Counter({0: 3, 1: 1, 2: 1}),
    )
    instruments.record_prompt(7)
    with instruments.request({"gen_ai.operation.name": "chat"}) as counted:
        async for _ in instruments.paced(chunks()):
            pass
        usage = generation_pb2.Usage(num_generated_tokens=9)
        timings = generation_pb2.GenerationTimings(first_token_ms=20, total_ms=100)
        counted.answer(generation_pb2.GenerateSummary(usage=usage, timings=timings))
    instruments.record(statistics, 9)
    with pytest.raises(ValueError), instruments.request({"gen_ai.operation.name": "text_completion"}):
        raise ValueError


def series(answer: httpx2.Response) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """The values of a page by name and labels."""
    assert answer.status_code == 200
    read = read_openmetrics if "openmetrics" in answer.headers["content-type"] else read_text
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in read(answer.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def of_vllm(answer: httpx2.Response) -> dict[str, float]:
    """The values of a page by the names of vLLM, but for those with labels of their own."""
    common = tuple(sorted(LABELS.items()))
    return {name: values[common] for name, values in series(answer).items() if common in values}


@pytest.mark.parametrize("accept", ["", "text/plain", "application/openmetrics-text; version=1.0.0", "*/*"])
async def test_it_has_what_otlp_exports(telemetry: Telemetry, instruments: GenerationInstruments, accept: str) -> None:
    await record(instruments)
    async with face(telemetry=telemetry) as made:
        answer = await made.client.get("/metrics", headers={"accept": accept})
        kind = "application/openmetrics-text" if "openmetrics" in accept else "text/plain"
        assert answer.headers["content-type"].startswith(kind)
        found = series(answer)
        assert found["outrider_generated_tokens_total"] == {(): 9}
        assert found["outrider_draft_tokens_total"] == {
            (("outrider_drafter", "remote"),): 5,
            (("outrider_drafter", "ngram"),): 3,
        }
        assert found["outrider_active_generations"] == {(): 3}
        assert sum(found["gen_ai_server_request_duration_seconds_count"].values()) == 2


async def test_it_has_the_same_by_the_names_of_vllm(telemetry: Telemetry, instruments: GenerationInstruments) -> None:
    await record(instruments)
    async with face(telemetry=telemetry) as made:
        made.service.busy = Load("big", num_running=2, num_waiting=1, cache_usage=0.25)
        answer = await made.client.get("/metrics")
    told = {name: value for name, value in of_vllm(answer).items() if not name.endswith("_sum")}
    assert told == {
        "vllm:spec_decode_num_drafts_total": 3,
        "vllm:spec_decode_num_draft_tokens_total": 8,
        "vllm:spec_decode_num_accepted_tokens_total": 5,
        "vllm:prompt_tokens_total": 7,
        "vllm:generation_tokens_total": 9,
        "vllm:time_to_first_token_seconds_count": 1,
        "vllm:inter_token_latency_seconds_count": 3,
        "vllm:request_time_per_output_token_seconds_count": 1,
        # Of the one that was answered.
        "vllm:e2e_request_latency_seconds_count": 1,
        "vllm:num_requests_running": 2,
        "vllm:num_requests_waiting": 1,
        "vllm:kv_cache_usage_perc": 0.25,
    }
    found = series(answer)
    assert of_vllm(answer)["vllm:time_to_first_token_seconds_sum"] == pytest.approx(0.02)
    positions = found["vllm:spec_decode_num_accepted_tokens_per_pos_total"]
    assert all(dict(labels).items() >= LABELS.items() for labels in positions)
    by_position = {int(dict(labels)["position"]): value for labels, value in positions.items()}
    assert by_position == {position: {0: 3, 1: 1, 2: 1}.get(position, 0) for position in range(16)}
    buckets = found["vllm:time_to_first_token_seconds_bucket"]
    assert {float(dict(labels)["le"]): value for labels, value in buckets.items()}[0.01] == 0
    assert {float(dict(labels)["le"]): value for labels, value in buckets.items()}[0.02] == 1


async def test_counters_of_vllm_begin_with_nothing(telemetry: Telemetry, instruments: GenerationInstruments) -> None:
    """A rise from nothing is none to Prometheus."""
    async with face(telemetry=telemetry, max_draft_tokens=2) as made:
        answer = await made.client.get("/metrics")
    counters = {name: value for name, value in of_vllm(answer).items() if name.endswith("_total")}
    assert len(counters) == 5
    assert set(counters.values()) == {0}
    assert set(series(answer)["vllm:spec_decode_num_accepted_tokens_per_pos_total"].values()) == {0}
    assert "vllm:kv_cache_usage_perc" not in series(answer), "it is not known"


async def test_the_names_of_vllm_can_be_left_out(telemetry: Telemetry, instruments: GenerationInstruments) -> None:
    async with face(telemetry=telemetry, http_vllm_metrics=False) as made:
        answer = await made.client.get("/metrics")
    assert "vllm" not in answer.text
    assert "outrider_generated_tokens_total" in answer.text


async def test_it_is_there_while_the_orchestrator_waits_for_its_target(telemetry: Telemetry) -> None:
    async with face(telemetry=telemetry) as made:
        made.served.service = None
        made.registry.is_open = False
        answer = await made.client.get("/metrics")
    assert (answer.status_code, "vllm" in answer.text) == (200, False)


async def test_it_can_be_off(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    async with face(telemetry=telemetry, http_metrics="off") as made:
        assert (await made.client.get("/metrics")).status_code == 404
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    async with face(telemetry=configure_telemetry("outrider-orchestrator", has_page=True)) as made:
        answer = await made.client.get("/metrics")
        assert (answer.status_code, "OTEL_SDK_DISABLED" in answer.json()["error"]["message"]) == (404, True)


async def test_it_asks_for_a_key_unless_it_is_open(telemetry: Telemetry, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.touch(0o600)
    file.write_text(f"prometheus: {ALICE}")
    keys = ApiKeys(file)
    async with face(telemetry=telemetry, keys=keys) as made:
        assert (await made.client.get("/metrics")).status_code == 401
        assert (await made.client.get("/metrics", headers={"authorization": f"Bearer {ALICE}"})).status_code == 200
    async with face(telemetry=telemetry, keys=keys, http_metrics="open") as made:
        assert (await made.client.get("/metrics")).status_code == 200
        assert (await made.client.get("/v1/models")).status_code == 401
