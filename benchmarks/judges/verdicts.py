"""What became of a judge's checks: read from the report that pytest and Node.js write alike, and told."""

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What is kept of what a failed check said.
_LONGEST_PROBLEM = 2000


@dataclass(frozen=True)
class Verdict:
    """Of one judge: what it is, how many checks it made, and what was wrong by the check that failed."""

    name: str
    package: str
    version: str
    num_checks: int
    failed: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """What became of it, in a few words."""
        found = ", ".join(self.failed)
        return f"{self.num_checks} checks" + (f", {len(self.failed)} failed: {found}" if found else "")


def read_checks(report: Path) -> dict[str, str]:
    """Return what was wrong by check, from a report in JUnit's form. What was skipped counts as failed."""
    checks: dict[str, str] = {}
    for case in ET.parse(report).iter("testcase"):
        problems = [each for kind in ("failure", "error", "skipped") for each in case.iter(kind)]
        told = "\n".join(f"{each.get('message') or ''}\n{each.text or ''}".strip() or each.tag for each in problems)
        name = case.get("name") or ""
        # One for each path of a page has the same name.
        again = sum(each.partition(" #")[0] == name for each in checks)
        checks[f"{name} #{again + 1}" if again else name] = told[-_LONGEST_PROBLEM:]
    return checks


def read_verdicts(path: Path) -> list[Verdict]:
    """Return what a file has of earlier runs."""
    return [
        Verdict(**each | {"failed": {one["check"]: one["problem"] for one in each["failed"]}})
        for each in json.loads(path.read_text())
    ]


def to_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Return what is committed of them."""
    return [
        {
            "name": verdict.name,
            "package": verdict.package,
            "version": verdict.version,
            "num_checks": verdict.num_checks,
            "failed": [{"check": check, "problem": problem} for check, problem in verdict.failed.items()],
        }
        for verdict in verdicts
    ]


def table(verdicts: Sequence[Verdict]) -> str:
    """Return them as a table in Markdown."""
    lines = ["| judge | version | checks | failed |", "|---|---|---|---|"]
    lines += [
        f"| {verdict.name} | {verdict.version} | {verdict.num_checks} | {', '.join(verdict.failed) or 'none'} |"
        for verdict in verdicts
    ]
    return "\n".join(lines)
