"""What a request may ask of the sampler, and the refusal of everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

MIN_TEMPERATURE: Final = 1e-6
MAX_TEMPERATURE: Final = 100.0
MAX_PENALTY: Final = 100.0
MAX_BIAS: Final = 100.0
MAX_NUM_BIASES: Final = 4096  # a millisecond of each row at that
MAX_NUM_SUPPRESSED: Final = 4096  # of one request


class SamplingError(ValueError):
    """A sampling parameter that cannot be honoured; the message begins with the `field` and says what to change."""

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field} {rule}")
        self.field = field


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one request are chosen. docs/sampling.md defines the effect of every field.

    Construction checks nothing, so that a request can be decoded first and refused with one `validate`. Everything else
    in this package takes the parameters as validated.
    """

    temperature: float = 0.0
    """0 takes the largest logit; above it, the noise decides in proportion."""
    top_k: int = 0
    """Number of candidates kept, 0 for all."""
    top_p: float = 1.0
    """Share of the probability mass kept, from the most probable token down."""
    min_p: float = 0.0
    """Least probability kept, relative to the most probable token."""
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_last_n: int = 64
    """Number of tokens before the sampled position that the penalties look at; 0 switches them off."""
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    """Addend per token id."""
    suppressed_tokens: frozenset[int] = frozenset()
    """Ids that are never chosen."""
    seed: int = 0
    """Key of the noise, an unsigned 64-bit integer."""

    def validate(self, vocabulary_size: int) -> None:
        """Raises SamplingError for the first field whose value is out of range for a vocabulary of this size."""
        if self.temperature != 0:
            _check_range("temperature", self.temperature, MIN_TEMPERATURE, MAX_TEMPERATURE, "0 (greedy) or ")
        _check_count("top_k", self.top_k)
        _check_range("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise SamplingError("top_p", "must be above 0: 0 would keep no token; use temperature 0 for greedy text")
        _check_range("min_p", self.min_p, 0.0, 1.0)
        if self.min_p == 1:
            raise SamplingError("min_p", "must be below 1; use temperature 0 for greedy text")
        _check_range("repetition_penalty", self.repetition_penalty, 1 / MAX_PENALTY, MAX_PENALTY)
        _check_range("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        _check_range("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        _check_count("penalty_last_n", self.penalty_last_n)
        _check_bias(self.logit_bias, vocabulary_size)
        _check_suppressed(self.suppressed_tokens, vocabulary_size)
        _check_count("seed", self.seed, 2**64 - 1)


def check_num_suppressed(count: int) -> None:
    """Raises SamplingError where one request suppresses too many tokens, as those are remembered."""
    if count > MAX_NUM_SUPPRESSED:
        raise SamplingError("suppressed_tokens", f"names {count} tokens, but at most {MAX_NUM_SUPPRESSED} are taken")


def _check_range(name: str, value: float, low: float, high: float, also: str = "", of: str = "") -> None:
    # A NaN fails every comparison, so the test is for being inside.
    if not low <= value <= high:
        raise SamplingError(name, f"{of}must be {also}between {low:g} and {high:g}, but it is {value!r}")


def _check_count(name: str, value: int, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise SamplingError(name, f"must be a whole number, but it is {value!r}")
    if value < 0 or (high is not None and value > high):
        limit = "0 or more" if high is None else f"between 0 and {high}"
        raise SamplingError(name, f"must be {limit}, but it is {value!r}")


def _check_bias(logit_bias: Mapping[int, float], vocabulary_size: int) -> None:
    if len(logit_bias) > MAX_NUM_BIASES:
        raise SamplingError("logit_bias", f"names {len(logit_bias)} tokens, but at most {MAX_NUM_BIASES} are taken")
    for token, bias in logit_bias.items():
        if not 0 <= token < vocabulary_size:
            raise SamplingError("logit_bias", f"names token {token!r}, but ids go from 0 to {vocabulary_size - 1}")
        if math.isinf(bias):
            raise SamplingError(
                "logit_bias", f"of token {token} must be finite; {-MAX_BIAS:g} bans a token in practice"
            )
        _check_range("logit_bias", bias, -MAX_BIAS, MAX_BIAS, of=f"of token {token} ")


def _check_suppressed(tokens: frozenset[int], vocabulary_size: int) -> None:
    if not tokens:
        return
    if not 0 <= min(tokens) <= max(tokens) < vocabulary_size:
        ids = f"ids go from 0 to {vocabulary_size - 1}"
        raise SamplingError("suppressed_tokens", f"names token {max(tokens)}, but {ids}")
    if len(tokens) == vocabulary_size:
        raise SamplingError("suppressed_tokens", "leaves no token to choose")
