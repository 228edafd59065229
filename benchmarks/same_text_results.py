"""What is known of texts that should be the same: kept in a file, compared, told as a table."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rig import Answer

from services.frame.program.atomic_file import replacing

_NO_COUNTS = ("differs_at", "error")


class Results:
    """What is done, in a JSON file: by case and temperature, for each prompt its tokens or how it compares."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        """Go on with the file. Raises SystemExit where it is of other settings."""
        self._path = path
        self._done: dict[str, Any] = {"settings": settings, "prompts": {}}
        if path.exists():
            self._done = json.loads(path.read_text())
            if self._done["settings"] != settings:
                raise SystemExit(f"{path} was made with other settings: remove it, or name another --out")

    def of(self, case: str, temperature: float) -> dict[str, Any]:
        """Return the prompts that are done, by their number."""
        done: dict[str, Any] = self._done["prompts"].setdefault(f"{case} {temperature:g}", {})
        return done

    def save(self) -> None:
        """Write the file."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as temporary:
            temporary.write_text(json.dumps(self._done))


def compare(answer: Answer, reference: Sequence[int]) -> dict[str, Any]:
    """Return where an answer first differs from the reference, None where it does not, and how it came to be."""
    pairs = zip(answer.tokens, reference, strict=False)
    at = next((index for index, (token, expected) in enumerate(pairs) if token != expected), None)
    if at is None and len(answer.tokens) != len(reference):
        at = min(len(answer.tokens), len(reference))
    counts = answer.summary.speculation
    return {
        "differs_at": at,
        "error": answer.error,
        "is_exact": answer.summary.exact,
        "num_tokens": len(answer.tokens),
        "num_cycles": counts.num_cycles,
        "num_draft_tokens": counts.num_draft_tokens,
        "num_accepted_tokens": counts.num_accepted_tokens,
        "num_fallbacks": counts.num_fallbacks,
        "num_resyncs": counts.num_resyncs,
    }


def table(results: Results, names: Iterable[str], temperatures: Sequence[float]) -> Table:
    """Return what is known of cases, by their names."""
    columns = (
        "case",
        "temperature",
        "prompts",
        "differ",
        "failed",
        "not exact",
        "struck",
        "accepted",
        "fallbacks",
        "resyncs",
    )
    found = Table(*columns, box=None, pad_edge=False)
    for name in names:
        for temperature in temperatures:
            if not (done := results.of(name, temperature)):
                continue
            totals: Counter[str] = Counter()
            for each in done.values():
                totals.update({key: int(value) for key, value in each.items() if key not in _NO_COUNTS})
            acceptance = totals["num_accepted_tokens"] / max(1, totals["num_draft_tokens"])
            found.add_row(
                name,
                f"{temperature:g}",
                str(len(done)),
                str(sum(each["differs_at"] is not None for each in done.values())),
                str(sum(bool(each["error"]) for each in done.values())),
                str(len(done) - totals["is_exact"]),
                str(totals["is_struck"]),
                f"{acceptance:.2f} of {totals['num_draft_tokens']}",
                str(totals["num_fallbacks"]),
                str(totals["num_resyncs"]),
            )
    return found
