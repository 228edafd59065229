"""The developer's own environment, which tests must not see."""

import os

import pytest

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


def hide_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the developer's own settings, and proxies, from code under test."""
    proxies = {"HTTP_PROXY", "HTTPS_PROXY", "GRPC_PROXY", "ALL_PROXY", "NO_PROXY", "NO_GRPC_PROXY"}
    for name in list(os.environ):
        if name.startswith(SETTINGS) or name.upper() in proxies:
            monkeypatch.delenv(name)
