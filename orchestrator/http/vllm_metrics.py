"""Metrics by the names of vLLM, which dashboards and inference gateways read, beside our own.

They are the same figures, as far as these mean the same. Names and labels are those of vLLM's V1 engine,
https://docs.vllm.ai/en/latest/usage/metrics/
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.samples import Sample

from orchestrator.generation.service import Load

_POSITION = "position"
# Labels that vLLM has too, by ours. All others are summed over.
_KEPT = {"outrider_position": _POSITION, "le": "le"}


@dataclass(frozen=True)
class _Name:
    """A metric of vLLM: which of ours it is, by the name that Prometheus gets, and what it means."""

    name: str
    ours: str
    meaning: str
    has_positions: bool = False


_COUNTERS = (
    _Name("spec_decode_num_drafts", "outrider_drafts", "cycles with draft tokens"),
    _Name("spec_decode_num_draft_tokens", "outrider_draft_tokens", "draft tokens verified"),
    _Name("spec_decode_num_accepted_tokens", "outrider_accepted_tokens", "draft tokens accepted"),
    _Name(
        "spec_decode_num_accepted_tokens_per_pos",
        "outrider_accepted_tokens_per_position",
        "draft tokens accepted, by position in the draft",
        has_positions=True,
    ),
    _Name("prompt_tokens", "outrider_prompt_tokens", "tokens of prompts"),
    _Name("generation_tokens", "outrider_generated_tokens", "tokens generated"),
)
_HISTOGRAMS = (
    _Name(
        "time_to_first_token_seconds",
        "gen_ai_server_time_to_first_token_seconds",
        "from the request to the first token",
    ),
    _Name(
        "inter_token_latency_seconds",
        "outrider_chunk_interval_seconds",
        "from what one cycle commits to what the next one does",
    ),
    _Name(
        "request_time_per_output_token_seconds",
        "gen_ai_server_time_per_output_token_seconds",
        "from one token to the next, the mean of a request",
    ),
    _Name(
        "e2e_request_latency_seconds",
        "gen_ai_server_request_duration_seconds",
        "from the request to the end of its answer",
    ),
)


def vllm_families(families: Iterable[Metric], load: Load, max_draft_tokens: int) -> Iterator[Metric]:
    """Yield what vLLM would tell, made of our own metrics and of how busy the orchestrator is.

    Counters begin with zero, for every position of a draft too, as a rise from nothing is none to Prometheus.
    """
    # The one engine that there is.
    common = {"model_name": load.model, "engine": "0"}
    ours = {family.name: family for family in families}
    for each in _COUNTERS:
        counter = Metric(f"vllm:{each.name}", each.meaning, "counter")
        known = [((_POSITION, str(position)),) for position in range(max_draft_tokens)] if each.has_positions else [()]
        sums: _Sums = {("_total", labels): 0.0 for labels in known}
        yield _filled(counter, sums | _sums(ours.get(each.ours), each), common)
    for each in _HISTOGRAMS:
        if each.ours in ours:
            histogram = Metric(f"vllm:{each.name}", each.meaning, "histogram")
            yield _filled(histogram, _sums(ours[each.ours], each), common)
    for name, meaning, value in (
        ("num_requests_running", "requests that are generated for", load.num_running),
        ("num_requests_waiting", "requests that wait for a slot of the target, or for the target", load.num_waiting),
        ("kv_cache_usage_perc", "the target's cache that sessions hold which are not over, 1 is all", load.cache_usage),
    ):
        if value is not None:
            gauge = Metric(f"vllm:{name}", meaning, "gauge")
            gauge.add_sample(gauge.name, common, value)
            yield gauge


_Sums = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _sums(family: Metric | None, name: _Name) -> _Sums:
    """Return the values of a metric of ours by the end of the name and the labels that vLLM has, summed.

    Requests that were not answered are left out, as vLLM counts none of them.
    """
    sums: _Sums = {}
    for sample in family.samples if family is not None else ():
        if not sample.labels.get("error_type"):
            key = sample.name.removeprefix(name.ours), _labels(sample)
            sums[key] = sums.get(key, 0.0) + sample.value
    return sums


def _labels(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple((_KEPT[label], value) for label, value in sample.labels.items() if label in _KEPT)


def _filled(metric: Metric, sums: _Sums, common: Mapping[str, str]) -> Metric:
    for (end, labels), value in sums.items():
        metric.add_sample(metric.name + end, {**common, **dict(labels)}, value)
    return metric
