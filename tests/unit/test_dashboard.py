"""The dashboard of deploy/: every expression names metrics and labels that Prometheus gets from our instruments."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Gauge, Histogram, InMemoryMetricReader, Metric, Sum
from prometheus_client import Metric as Family

from orchestrator.generation.instruments import GenerationInstruments
from orchestrator.generation.request_span import request_attributes
from orchestrator.generation.statistics import Statistics
from outrider.v1 import common_pb2, generation_pb2
from services.engine.runtime.devices import Accelerator
from services.engine.scheduling.engine import Engine
from services.engine.scheduling.scheduler import Decode
from services.engine.startup.instruments import EngineInstruments
from services.frame.telemetry import Telemetry
from services.frame.telemetry.prometheus import PrometheusPage

DASHBOARD = json.loads((Path(__file__).parents[2] / "deploy" / "grafana" / "dashboard.json").read_text())

UNITS = {"s": "seconds", "By": "bytes", "%": "percent"}
# The service's name, which the collector makes of service.name, and the bound of a histogram's bucket.
OTHER_LABELS = {"job", "le"}
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
MATCHERS = re.compile(r"\{([^}]*)\}")
WINDOW = re.compile(r"\[(?:\d+[smh]|\$__rate_interval)\]")
# A name that is not called, as functions are.
NAME = re.compile(r"\b[a-zA-Z_]\w*\b(?!\s*\()")


def prometheus_names(metric: Metric) -> list[str]:
    """The series of a metric, by OpenTelemetry's rules for Prometheus: the unit and what it counts become suffixes.

    https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/#metric-metadata-1
    """
    name = re.sub(r"\W", "_", metric.name)
    if metric.unit and not metric.unit.startswith("{"):
        name = f"{name}_{UNITS[metric.unit]}"
    if isinstance(metric.data, Histogram):
        return [f"{name}_{part}" for part in ("bucket", "sum", "count")]
    if isinstance(metric.data, Sum):
        assert metric.data.is_monotonic
        return [f"{name}_total"]
    assert isinstance(metric.data, Gauge)
    return [name]


PAGE = PrometheusPage()
FETCHED: list[Family] = []


async def paced(instruments: GenerationInstruments) -> None:
    """Two chunks of an answer."""

    async def chunks() -> AsyncGenerator[int, None]:
        yield 1
        yield 2

    assert [chunk async for chunk in instruments.paced(chunks())] == [1, 2]


@pytest.fixture(scope="module")
def metrics() -> list[Metric]:
    """Every metric of ours, recorded once."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader, PAGE.reader], shutdown_on_exit=False)
    telemetry = Telemetry(meter_provider=provider)
    engine: Any = SimpleNamespace(num_waiting=0, num_active=0, num_evictions=0)
    EngineInstruments(telemetry, cast(Engine, engine), 1, 1).record_decode(Decode(0.0, 0.001, [("a", 1)], True))
    drafted = Counter(remote=1)
    statistics = Statistics(1, drafted, drafted, drafted, num_accepted_per_position=Counter([0]))
    instruments = GenerationInstruments(telemetry, lambda: 0, lambda: 0.0, lambda: 0.0)
    instruments.record(statistics, 1)
    asyncio.run(paced(instruments))
    attributes = request_attributes(generation_pb2.GenerateRequest(), common_pb2.ModelInfo(name="m"))
    with instruments.request(attributes) as counted:
        counted.answer(generation_pb2.GenerateSummary(usage=generation_pb2.Usage(num_generated_tokens=2)))
    with pytest.raises(ValueError), instruments.request(attributes):
        raise ValueError
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr("services.engine.startup.instruments.accelerators", lambda: [Accelerator("a GPU", 1, 2)])
        data = reader.get_metrics_data()
        FETCHED.extend(PAGE.families())
    provider.shutdown()
    assert data is not None
    return list(data.resource_metrics[0].scope_metrics[0].metrics)


@pytest.fixture(scope="module")
def series(metrics: list[Metric]) -> dict[str, set[str]]:
    """Labels of every series that the metrics give, by name."""
    found = {}
    for metric in metrics:
        labels = {re.sub(r"\W", "_", key) for point in metric.data.data_points for key in point.attributes or {}}
        found.update(dict.fromkeys(prometheus_names(metric), labels))
    return found


TARGETS = [
    pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']} {target['refId']}")
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
]


def test_what_prometheus_fetches_has_the_names_that_a_collector_makes(series: dict[str, set[str]]) -> None:
    fetched = {
        sample.name: set(sample.labels) - {"le"} for family in FETCHED for sample in family.samples if sample.labels
    }
    fetched |= {sample.name: set() for family in FETCHED for sample in family.samples if not sample.labels}
    del fetched["target_info"]
    assert fetched == series


@pytest.mark.parametrize(("expression", "legend"), TARGETS)
def test_an_expression_names_what_is_measured(expression: str, legend: str, series: dict[str, set[str]]) -> None:
    labels = set(re.findall(r"\{\{(\w+)\}\}", legend))
    for grouping in GROUPING.findall(expression):
        labels |= set(re.findall(r"\w+", grouping))
    rest = GROUPING.sub("", expression)
    for matchers in MATCHERS.findall(rest):
        labels |= set(re.findall(r"(\w+)\s*[=!]", matchers))
    names = set(NAME.findall(WINDOW.sub("", MATCHERS.sub("", rest))))
    assert names
    assert names <= set(series)
    assert labels <= OTHER_LABELS.union(*(series[name] for name in names))


@pytest.mark.parametrize(("expression", "legend"), TARGETS)
def test_counters_and_histograms_are_read_as_rates(expression: str, legend: str) -> None:
    for name in re.findall(r"\w+_(?:total|bucket|sum|count)\b", expression):
        assert re.search(rf"(?:rate|increase)\({name}({MATCHERS.pattern})?\[", expression)


def test_panels_do_not_overlap() -> None:
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_percentiles_of_times_can_be_read_from_buckets(metrics: list[Metric]) -> None:
    """The SDK's own buckets begin with everything up to five seconds."""
    times = [metric.data for metric in metrics if metric.unit == "s"]
    assert len(times) == 5
    for data in times:
        assert isinstance(data, Histogram)
        assert len([bound for bound in data.data_points[0].explicit_bounds if 0 < bound < 1]) >= 5
