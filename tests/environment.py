"""The developer's own environment, which tests must not see."""

# How the names of variables begin that say what our programs do.
SETTINGS = (
    "OUTRIDER_",
    "OTEL_",
    "HF_",
    "TARGET_MODEL_PATH",
    "DRAFT_MODEL_PATH",
    "ENABLE_SPECULATIVE",
    "SPECULATION_DEPTH",
)
