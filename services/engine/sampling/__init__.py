"""Choosing tokens: a pure function of logits, parameters, history and (seed, position). docs/sampling.md defines it.

Read that, then `reference.py`, which is the same in plain Python, then `sample.py`. All else is there to be quick, and
must not change a token: whatever can change one raises SAMPLER_VERSION and gets new vectors. `_kernel.c` and the numpy
forms beside it say the same, to the bit.
"""

from services.engine.sampling.adjust import LogitsError
from services.engine.sampling.noise import SAMPLER_VERSION
from services.engine.sampling.params import SamplingError, SamplingParams
from services.engine.sampling.sample import log_probabilities, sample, sample_rows, sample_with_confidence, samples

__all__ = [
    "SAMPLER_VERSION",
    "LogitsError",
    "SamplingError",
    "SamplingParams",
    "log_probabilities",
    "sample",
    "sample_rows",
    "sample_with_confidence",
    "samples",
]
