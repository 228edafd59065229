"""Runs as a bench keeps them, with no more than is compared."""

from typing import Any


def run(system: str, setting: str, rate: float, number: int = 0, num_streams: int = 4) -> dict[str, Any]:
    figures = {"chunk_ms_p50": 50.0, "chunk_ms_p95": 60.0, "token_ms_p50": 20.0, "token_ms_p95": 25.0}
    case = {"system": system, "setting": setting, "num_streams": num_streams, "round": number}
    return case | {"tokens_per_s": rate, "tokens_per_chunk": 2.5} | figures
