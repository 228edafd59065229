"""Runs with traces, apart from those that are measured: where a token's time went, and whether the spans agree."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from orchestrator.bench.anatomy import NoCyclesError, anatomy
from orchestrator.bench.cycles import Cycle, cycles_of
from orchestrator.bench.load.prompts import for_streams
from orchestrator.bench.load.streams import Stream, decode_rate, run_to_end
from orchestrator.bench.measuring.bench import Load, Results, case_in_words, tell
from orchestrator.bench.reliability import reliability
from orchestrator.bench.spans import SpanReceiver
from orchestrator.bench.systems.services import Services
from orchestrator.bench.systems.system import AUTO, Setting
from orchestrator.bench.timeline import draw_timeline

# All that a user may have set to have fewer traces.
_VARIABLES = {"OTEL_SDK_DISABLED": "false", "OTEL_METRICS_EXPORTER": "none", "OTEL_TRACES_SAMPLER": "always_on"}
_WARM_UP_TOKENS = 4


async def trace_runs(
    ours: Services,
    cases: Sequence[tuple[Setting, int]],
    load: Load,
    results: Results,
    path: Path,
    *,
    is_drawn: bool = False,
) -> None:
    """Run each setting with so many streams on services that trace; keep the spans in the file and what they say.

    `anatomies` of the results has where the time went, `span_agreements` the client's decode rate of each stream over
    that of its spans, `reliability` how far the chances hold that `auto` gave draft tokens. Who was in which decode is
    drawn beside the file, where it `is_drawn`.
    """
    tell("where the time goes: runs with traces, apart from those that were measured")
    runs: list[tuple[Setting, list[Stream]]] = []
    async with SpanReceiver() as receiver:
        services = ours.again(receiver.variables | _VARIABLES, [setting for setting, _ in cases])
        async with AsyncExitStack() as running:
            results.doing = f"starting {services.name} with traces"
            await services.start(running)
            for setting, num_streams in cases:
                results.doing = f"{case_in_words(services.name, setting.name, num_streams)}, with traces"
                prompts = for_streams(load.prompts, num_streams)
                for num_tokens in (_WARM_UP_TOKENS, load.num_tokens):
                    asks = [services.asking(prompt, setting, num_tokens) for prompt in prompts]
                    streams = await run_to_end(asks, load.delays_s(num_streams))
                runs.append((setting, streams))
        # Services send their last spans as they stop.
        cycles = cycles_of(receiver.spans)
        receiver.write(path)
    if is_drawn:
        for setting, streams in runs:
            _draw(setting, streams, cycles, path)
    results.found["anatomies"] = [each for setting, streams in runs for each in _anatomies(setting, streams, cycles)]
    results.found["span_agreements"] = [each for _, streams in runs for each in span_agreements(streams, cycles)]
    # Whatever the number of streams, drafters are the same.
    adaptive = [stream for setting, streams in runs if setting.kind == AUTO for stream in streams]
    results.found["reliability"] = reliability(_of_run(adaptive, cycles))
    results.save()


def _of_run(streams: Sequence[Stream], cycles: Sequence[Cycle]) -> list[Cycle]:
    traces = {stream.summary["trace_id"] for stream in streams}
    return [cycle for cycle in cycles if cycle.session in traces]


def _draw(setting: Setting, streams: Sequence[Stream], cycles: Sequence[Cycle], path: Path) -> None:
    """Draw one run beside the file of spans, where its spans came."""
    if own := _of_run(streams, cycles):
        draw_timeline(own, path.with_suffix(f".{len(streams)}-streams-{setting.name}.svg"))


def _anatomies(setting: Setting, streams: Sequence[Stream], cycles: Sequence[Cycle]) -> list[dict[str, Any]]:
    """Return where the time of one run went; nothing where its spans did not come."""
    try:
        found = anatomy(_of_run(streams, cycles))
    except NoCyclesError:
        return []
    return [{"setting": setting.name, "num_streams": len(streams), **found}]


def span_agreements(streams: Sequence[Stream], cycles: Sequence[Cycle]) -> list[float]:
    """Return, for each stream, the rate that the client saw over that of its cycles, both after the first cycle."""
    found = []
    for stream in streams:
        own = [cycle for cycle in cycles if cycle.session == stream.summary["trace_id"]]
        if len(own) < 2 or (rate := decode_rate(stream)) is None:  # a first one and another
            continue
        took_s = (own[-1].ended_ns - own[0].ended_ns) / 1e9
        num_tokens = sum(chunk.num_tokens for chunk in stream.chunks[1:])
        found.append(rate / (num_tokens / took_s))
    return found
