"""What a draft did, in the names that tools already read.

- `usage` is OpenAI's; `accepted_prediction_tokens` and `rejected_prediction_tokens` are draft tokens, whoever proposed
  them.
- `timings` is llama-server's (`server_slot_stats::to_json` in llama.cpp's tools/server/server-common.cpp).
- `metrics` is vLLM's (docs/features/per_request_metrics.md and speculative_decoding/acceptance_metrics.md there), which
  has none for several generations of one request.
- `outrider` is our own.
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.message import Message

from outrider.v1 import generation_pb2

Summaries = Sequence[generation_pb2.GenerateSummary]
_FINISH_REASONS = {
    generation_pb2.FINISH_REASON_END_OF_GENERATION: "stop",
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_TOOL_CALLS: "tool_calls",
}


def finish_reason(summary: generation_pb2.GenerateSummary) -> str:
    """Return why a generation ended, as OpenAI calls it."""
    return _FINISH_REASONS.get(summary.finish_reason, "length")


def usage(summaries: Summaries, num_choices: int = 1) -> dict[str, Any]:
    """Return the token counts of all; each prompt has `num_choices` of them, and counts once."""
    num_prompt = sum(each.usage.num_prompt_tokens for each in summaries[::num_choices])
    num_generated = sum(each.usage.num_generated_tokens for each in summaries)
    num_drafted, num_accepted = _drafted(summaries)
    num_cached = sum(each.usage.num_cached_prompt_tokens for each in summaries[::num_choices])
    return {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_generated,
        "total_tokens": num_prompt + num_generated,
        "prompt_tokens_details": {"cached_tokens": num_cached},
        "completion_tokens_details": {
            "reasoning_tokens": sum(each.usage.num_reasoning_tokens for each in summaries),
            "accepted_prediction_tokens": num_accepted,
            "rejected_prediction_tokens": num_drafted - num_accepted,
        },
    }


def measures(summaries: Summaries, most_draft_tokens: int, trace_url: str = "") -> dict[str, Any]:
    """Return all that is told of drafts beside the usage; a cycle had at most so many draft tokens.

    `trace_url` is where traces are seen, with {trace_id} in it, empty where that is not known.
    """
    return {
        "timings": timings(summaries),
        "metrics": metrics(summaries, most_draft_tokens),
        "outrider": outrider(summaries, trace_url),
    }


def timings(summaries: Summaries) -> dict[str, Any]:
    """Return where the time went. Of several generations it is the sum, so that rates are those of one."""
    num_cached = sum(each.usage.num_cached_prompt_tokens for each in summaries)
    num_prompt = sum(each.usage.num_prompt_tokens for each in summaries) - num_cached
    num_generated = sum(each.usage.num_generated_tokens for each in summaries)
    prompt_ms = sum(each.timings.first_token_ms for each in summaries)
    predicted_ms = sum(each.timings.total_ms - each.timings.first_token_ms for each in summaries)
    num_drafted, num_accepted = _drafted(summaries)
    told = {
        "cache_n": num_cached,
        "prompt_n": num_prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": _ratio(prompt_ms, num_prompt),
        "prompt_per_second": _ratio(1e3 * num_prompt, prompt_ms),
        "predicted_n": num_generated,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": _ratio(predicted_ms, num_generated),
        "predicted_per_second": _ratio(1e3 * num_generated, predicted_ms),
    }
    if num_drafted:
        told |= {"draft_n": num_drafted, "draft_n_accepted": num_accepted}
    return told


def metrics(summaries: Summaries, most_draft_tokens: int) -> dict[str, Any] | None:
    """Return the measures of a request with one generation, whose drafts had at most so many tokens."""
    if len(summaries) > 1:
        return None
    (summary,) = summaries
    num_generated, spent = summary.usage.num_generated_tokens, summary.timings
    generation_ms = spent.total_ms - spent.first_token_ms
    return {
        "time_to_first_token_ms": spent.first_token_ms,
        "generation_time_ms": generation_ms,
        "queue_time_ms": spent.target_queued_ms,
        "mean_itl_ms": generation_ms / (num_generated - 1) if num_generated > 1 else None,
        "tokens_per_second": _ratio(1e3 * num_generated, spent.total_ms),
        "speculative_decoding": _acceptance(summary.speculation, most_draft_tokens) if most_draft_tokens else None,
    }


def outrider(summaries: Summaries, trace_url: str = "") -> dict[str, Any]:
    """Return what is known of drafts and exactness, of all generations together and of each where there are several."""
    first = summaries[0]
    counts: dict[str, Any] = {}
    drafters: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        _add(counts, summary.speculation)
        for each in summary.speculation.drafters:
            _add(drafters.setdefault(drafter_name(each.drafter), {}), each)
    told = _of_one(first, trace_url) | {
        "exact": all(each.exact for each in summaries),
        "draft_problem": next((each.draft_problem for each in summaries if each.draft_problem), None),
        "speculation": counts,
        "drafters": [{**each, "drafter": name} for name, each in drafters.items()],
    }
    if len(summaries) > 1:
        told["choices"] = [{"index": index} | _of_one(each, trace_url) for index, each in enumerate(summaries)]
    return told


def _of_one(summary: generation_pb2.GenerateSummary, trace_url: str) -> dict[str, Any]:
    has_url = trace_url and summary.trace_id
    return {
        "exact": summary.exact,
        "seed": summary.seed,
        "speedup": summary.speculation.speedup or None,
        "trace_id": summary.trace_id or None,
        "trace_url": trace_url.replace("{trace_id}", summary.trace_id) if has_url else None,
    }


def _acceptance(counts: generation_pb2.SpeculationStatistics, most_draft_tokens: int) -> dict[str, Any]:
    """Return how many draft tokens were accepted; a step is a cycle with a draft."""
    per_position = list(counts.num_accepted_per_position)
    most = max(most_draft_tokens, len(per_position))
    # So many steps accepted at least 0, 1, 2 ... tokens.
    at_least = [counts.num_drafts, *per_position, *[0] * (most + 1 - len(per_position))]
    return {
        "mean_acceptance_length": 1 + _ratio(counts.num_accepted_tokens, counts.num_drafts),
        "draft_acceptance_rate": _ratio(counts.num_accepted_tokens, counts.num_draft_tokens),
        "acceptance_histogram": [at_least[num] - at_least[num + 1] for num in range(most + 1)],
        "num_spec_steps": counts.num_drafts,
        "num_accepted_draft_tokens": counts.num_accepted_tokens,
        "num_draft_tokens": counts.num_draft_tokens,
        "num_spec_tokens": most,
    }


def _drafted(summaries: Summaries) -> tuple[int, int]:
    """Return how many draft tokens were verified, and accepted."""
    counts = [each.speculation for each in summaries]
    return sum(each.num_draft_tokens for each in counts), sum(each.num_accepted_tokens for each in counts)


def _add(sums: dict[str, Any], counts: Message) -> None:
    """Add the counts of a message to those of the same name; those of positions are added position by position."""
    for field in counts.DESCRIPTOR.fields:
        value = getattr(counts, field.name)
        if field.message_type is not None or field.enum_type is not None or isinstance(value, float):
            continue
        if isinstance(value, int):
            sums[field.name] = sums.get(field.name, 0) + value
        else:
            before = sums.get(field.name, [])
            longest = max(len(before), len(value))
            padded = [[*each, *[0] * (longest - len(each))] for each in (before, value)]
            sums[field.name] = [sum(pair) for pair in zip(*padded, strict=True)]


def drafter_name(drafter: generation_pb2.Drafter.ValueType) -> str:
    """Return what JSON calls a drafter, as in `remote`."""
    return generation_pb2.Drafter.Name(drafter).removeprefix("DRAFTER_").lower()


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0
