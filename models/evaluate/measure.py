"""All measurements of a pair on held-out files."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from models.evaluate.acceptance import count_acceptance
from models.evaluate.pair import Pair, PairError, Settings
from models.evaluate.runs import bits_of_text, choices_along, decode_ms, generate
from models.evaluate.texts import Excerpt, excerpts, function_headers, function_parses, repeated_share
from services.engine.model.model import Model
from services.engine.runtime.interface import Runtime
from services.engine.sampling import SamplingParams

Metrics = dict[str, Any]
"""What metrics.json holds."""
OnProgress = Callable[[str, float], None]
"""Told what is being measured and which share of that is done."""

GREEDY, SAMPLED, HELD_OUT = "greedy", "temperature_0.8", "held_out_code"
MODES = {GREEDY: 0.0, SAMPLED: 0.8}
_NUM_SLOTS = 8
_FIRST_POSITIONS = 4


class _Share:
    """Turns finished items into the share of a task that is done."""

    def __init__(self, task: str, total: int, on_progress: OnProgress) -> None:
        self._task, self._total, self._on_progress = task, total, on_progress
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        self._on_progress(self._task, self._done / self._total)


def measure(pair: Pair, texts: Sequence[str], settings: Settings, on_progress: OnProgress) -> Metrics:
    """Measures everything on the held-out source texts. Raises PairError where none of them is long enough."""
    files = [pair.tokens(text) for text in texts]
    places = excerpts(
        files,
        pair.bos,
        settings.num_texts,
        prompt_tokens=settings.prompt_tokens,
        num_tokens=settings.repetition_tokens,
        seed=settings.seed,
    )
    if not places:
        raise PairError(f"no held-out file has {settings.prompt_tokens + settings.repetition_tokens} tokens")
    target, draft = _describe(pair.target), _describe(pair.draft)
    for model, description in ((pair.target, target), (pair.draft, draft)):
        description["bits_per_byte"] = _bits_per_byte(pair, model, texts, files, settings, on_progress)
    target["ms_per_token"], draft["ms_per_token"] = _ms_per_token(pair, places[0], settings)
    prompts = [place.prompt for place in places]
    lengths = {GREEDY: settings.acceptance_tokens, SAMPLED: settings.repetition_tokens}
    written = {mode: _write_on(pair, prompts, lengths[mode], mode, settings, on_progress) for mode in MODES}
    return {
        "target": target,
        "draft": draft,
        "acceptance": {mode: _acceptance(pair, places, written[mode], mode, settings, on_progress) for mode in MODES},
        "repeated_8_grams": _repetition(places, written[SAMPLED]),
        "parse_rate": _parse_rates(pair, texts, settings, on_progress),
        "held_out": {"num_files": len(texts), "num_bytes": sum(len(text.encode()) for text in texts)},
        "settings": asdict(settings),
        "machine": {"processor": _processor(), "num_threads": pair.num_threads},
    }


def _describe(model: Model) -> Metrics:
    return {
        "file": model.path.name,
        "sha256": hashlib.sha256(model.path.read_bytes()).hexdigest(),
        "num_bytes": model.path.stat().st_size,
        "num_parameters": model.num_parameters,
        "type": model.quantization,
    }


def _processor() -> str:
    """What the processor calls itself; Linux tells, elsewhere it may be only the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _params(mode: str, index: int, settings: Settings) -> SamplingParams:
    """What text number `index` is sampled with: noise of its own, the same for target and draft."""
    return SamplingParams(temperature=MODES[mode], seed=settings.seed * 1_000_003 + index)


def _bits_per_byte(
    pair: Pair,
    model: Model,
    texts: Sequence[str],
    files: Sequence[Sequence[int]],
    settings: Settings,
    on_progress: OnProgress,
) -> float:
    order = list(range(len(texts)))
    Random(settings.seed).shuffle(order)
    order = order[: settings.num_files]

    def bits(runtime: Runtime, index: int) -> float:
        return bits_of_text(runtime, pair.bos, files[index], window=settings.window, overlap=settings.overlap)

    done = _Share(f"bits per byte of {model.path.name}", len(order), on_progress)
    return sum(pair.over(model, order, bits, context=settings.window, on_done=done)) / sum(
        len(texts[index].encode()) for index in order
    )


def _ms_per_token(pair: Pair, place: Excerpt, settings: Settings) -> list[float]:
    tokens = [*place.prompt, *place.continuation[: settings.timed_tokens]]
    num_timed = len(tokens) - len(place.prompt)
    with (
        pair.runtime(pair.target, context=len(tokens), num_threads=pair.num_threads) as target,
        pair.runtime(pair.draft, context=len(tokens), num_threads=pair.num_threads) as draft,
    ):
        return decode_ms([target, draft], tokens, num_timed)


def _write_on(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    mode: str,
    settings: Settings,
    on_progress: OnProgress,
) -> list[list[int]]:
    """What the target writes after each prompt."""
    groups = [range(start, min(start + _NUM_SLOTS, len(prompts))) for start in range(0, len(prompts), _NUM_SLOTS)]
    ends = pair.target.vocabulary.end_of_generation

    def write(runtime: Runtime, group: range) -> list[list[int]]:
        params = [_params(mode, index, settings) for index in group]
        return generate(runtime, [prompts[index] for index in group], num_tokens, params, ends)

    context = max(len(prompt) for prompt in prompts) + num_tokens
    done = _Share(f"{num_tokens} tokens after {len(prompts)} prompts, {mode}", len(groups), on_progress)
    written = pair.over(pair.target, groups, write, context=context, num_slots=_NUM_SLOTS, on_done=done)
    return [text for texts in written for text in texts]


def _acceptance(
    pair: Pair,
    places: Sequence[Excerpt],
    written: Sequence[Sequence[int]],
    mode: str,
    settings: Settings,
    on_progress: OnProgress,
) -> Metrics:
    def agreement(runtime: Runtime, index: int) -> list[bool]:
        prompt, text = places[index].prompt, written[index][: settings.acceptance_tokens]
        if not text:
            return []
        choices = choices_along(runtime, [*prompt, *text], len(prompt), _params(mode, index, settings))
        return [int(choice) == token for choice, token in zip(choices, text, strict=True)]

    context = max(len(place.prompt) for place in places) + settings.acceptance_tokens
    done = _Share(f"acceptance, {mode}", len(places), on_progress)
    agreements = pair.over(pair.draft, range(len(places)), agreement, context=context, on_done=done)
    result: Metrics = {}
    for num_draft_tokens in settings.num_draft_tokens:
        counted = count_acceptance(agreements, num_draft_tokens)
        if not counted.num_cycles:
            raise PairError(f"the target's texts end too early for {num_draft_tokens} draft tokens")
        first_positions = counted.per_position[:_FIRST_POSITIONS]
        result[f"{num_draft_tokens}_draft_tokens"] = {
            "num_cycles": counted.num_cycles,
            "per_position": counted.per_position,
            f"mean_of_first_{_FIRST_POSITIONS}": sum(first_positions) / len(first_positions),
            "mean_accepted_length": counted.mean_accepted_length,
        }
    return result


def _repetition(places: Sequence[Excerpt], written: Sequence[Sequence[int]]) -> Metrics:
    """Repetition within generated texts, and within what stands at the same places, cut to the same lengths."""
    generated = repeated_share(written)
    held_out = repeated_share(place.continuation[: len(tokens)] for place, tokens in zip(places, written, strict=True))
    return {SAMPLED: generated, HELD_OUT: held_out, "ratio": generated / held_out if held_out else None}


def _parse_rates(pair: Pair, texts: Sequence[str], settings: Settings, on_progress: OnProgress) -> Metrics:
    """The share of function headers that a continuation, cut at its last whole line, makes a function that parses.

    What the files themselves hold is measured likewise: the cut may fall into a string or behind a colon.
    """
    headers = [header for text in texts for header in function_headers(text)]
    headers = Random(settings.seed).sample(headers, min(settings.num_headers, len(headers)))
    if not headers:
        raise PairError("no held-out file has a function")
    prompts = [
        [pair.bos, *pair.tokens(header.before + header.header)[-settings.header_prompt_tokens :]] for header in headers
    ]
    continuations = {HELD_OUT: [pair.tokens(header.rest)[: settings.header_tokens] for header in headers]}
    for mode in MODES:
        continuations[mode] = _write_on(pair, prompts, settings.header_tokens, mode, settings, on_progress)
    rates: Metrics = {"num_headers": len(headers)}
    for kind, written in continuations.items():
        parsed = [function_parses(one.header, pair.text(own)) for one, own in zip(headers, written, strict=True)]
        rates[kind] = sum(parsed) / len(parsed)
    return rates
