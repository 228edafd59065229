"""Runs as a bench keeps them, with no more than is compared and told."""

from typing import Any


def run(system: str, setting: str, rate: float, number: int = 0, num_streams: int = 4, **more: Any) -> dict[str, Any]:
    names = ("chunk_ms", "token_ms", "first_token_ms")
    figures = {f"{name}_p{percent}": float(percent) for name in names for percent in (50, 95, 99)}
    case = {"system": system, "setting": setting, "num_streams": num_streams, "round": number}
    return {
        **case,
        "tokens_per_s": rate,
        "tokens_per_chunk": 2.5,
        **figures,
        "is_steady": True,
        "memory_bytes": {},
        "gpu": {},
        "agreements": [],
        **more,
    }
