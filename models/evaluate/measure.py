"""All measurements of a pair on held-out files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from models.evaluate.acceptance import count_acceptance
from models.evaluate.pair import Pair, PairError, Settings
from models.evaluate.runs import bits_of_text, choices_along, decode_ms, generate
from models.evaluate.texts import Excerpt, excerpts, function_headers, function_parses, repeated_share
from services.engine.model import Model
from services.engine.sampling import SamplingParams

Metrics = dict[str, Any]
"""What metrics.json holds."""
OnProgress = Callable[[str, float], None]
"""Told what is being measured and which share of that is done."""

GREEDY, SAMPLED, HELD_OUT = "greedy", "temperature_0.8", "held_out_code"
MODES = {GREEDY: 0.0, SAMPLED: 0.8}
_NUM_SLOTS = 8
_FIRST_POSITIONS = 4


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
    written = {mode: _write_on(pair, places, mode, settings, on_progress) for mode in MODES}
    return {
        "target": target,
        "draft": draft,
        "acceptance": {mode: _acceptance(pair, places, written[mode], mode, settings, on_progress) for mode in MODES},
        "repeated_8_grams": _repetition(places, written[SAMPLED]),
        "parse_rate": _parse_rates(pair, texts, settings, on_progress),
        "held_out": {"num_files": len(texts), "num_bytes": sum(len(text.encode()) for text in texts)},
        "settings": asdict(settings),
    }


def _describe(model: Model) -> Metrics:
    return {
        "file": model.path.name,
        "sha256": hashlib.sha256(model.path.read_bytes()).hexdigest(),
        "num_bytes": model.path.stat().st_size,
        "num_parameters": model.num_parameters,
        "type": model.quantization,
    }


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
    lengths = [len(texts[index].encode()) for index in order]
    bits = 0.0
    with pair.runtime(model, context=settings.window) as runtime:
        for place, index in enumerate(order):
            bits += bits_of_text(runtime, pair.bos, files[index], window=settings.window, overlap=settings.overlap)
            on_progress(f"bits per byte of {model.path.name}", sum(lengths[: place + 1]) / sum(lengths))
    return bits / sum(lengths)


def _ms_per_token(pair: Pair, place: Excerpt, settings: Settings) -> list[float]:
    tokens = [*place.prompt, *place.continuation[: settings.timed_tokens]]
    num_timed = len(tokens) - len(place.prompt)
    with (
        pair.runtime(pair.target, context=len(tokens)) as target,
        pair.runtime(pair.draft, context=len(tokens)) as draft,
    ):
        return decode_ms([target, draft], tokens, num_timed)


def _write_on(
    pair: Pair, places: Sequence[Excerpt], mode: str, settings: Settings, on_progress: OnProgress
) -> list[list[int]]:
    """What the target writes at each place."""
    num_tokens = settings.repetition_tokens if mode == SAMPLED else settings.acceptance_tokens
    params = [_params(mode, index, settings) for index in range(len(places))]
    prompts = [place.prompt for place in places]
    return _generate(pair, prompts, num_tokens, params, f"{mode} text of {pair.target.path.name}", on_progress)


def _generate(
    pair: Pair,
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    params: Sequence[SamplingParams],
    task: str,
    on_progress: OnProgress,
) -> list[list[int]]:
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(task, done / len(prompts))

    longest = max(len(prompt) for prompt in prompts)
    ends = pair.target.vocabulary.end_of_generation
    with pair.runtime(pair.target, context=longest + num_tokens, num_slots=_NUM_SLOTS) as runtime:
        return generate(runtime, prompts, num_tokens, params, ends, on_text=count)


def _acceptance(
    pair: Pair,
    places: Sequence[Excerpt],
    written: Sequence[Sequence[int]],
    mode: str,
    settings: Settings,
    on_progress: OnProgress,
) -> Metrics:
    agreements: list[list[bool]] = []
    with pair.runtime(pair.draft, context=settings.prompt_tokens + 1 + settings.acceptance_tokens) as runtime:
        for index, (place, tokens) in enumerate(zip(places, written, strict=True)):
            text = tokens[: settings.acceptance_tokens]
            if text:
                first = len(place.prompt)
                params = _params(mode, index, settings)
                choices = choices_along(runtime, [*place.prompt, *text], first, params)
                agreements.append([int(choice) == token for choice, token in zip(choices, text, strict=True)])
            on_progress(f"{mode} acceptance", (index + 1) / len(places))
    result: Metrics = {}
    for num_draft_tokens in settings.num_draft_tokens:
        counted = count_acceptance(agreements, num_draft_tokens)
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
        params = [_params(mode, index, settings) for index in range(len(headers))]
        task = f"{mode} functions of {pair.target.path.name}"
        continuations[mode] = _generate(pair, prompts, settings.header_tokens, params, task, on_progress)
    rates: Metrics = {"num_headers": len(headers)}
    for kind, written in continuations.items():
        parsed = [function_parses(one.header, pair.text(own)) for one, own in zip(headers, written, strict=True)]
        rates[kind] = sum(parsed) / len(parsed)
    return rates
