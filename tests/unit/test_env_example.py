"""What `.env.example` promises: every variable is there, means something, and has the default that it says."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from orchestrator.settings import OrchestratorSettings
from services.draft.settings import DraftSettings
from services.frame.program.settings import ProgramSettings, load_settings
from services.target.settings import TargetSettings
from tools.env_example import render

ROOT = Path(__file__).parents[2]
LINES = (ROOT / ".env.example").read_text().splitlines()
VARIABLES = dict(line[1:].partition("=")[::2] for line in LINES if re.match(r"#[A-Z]", line))
PROGRAMS = (TargetSettings, DraftSettings, OrchestratorSettings)


def test_it_is_what_the_settings_give() -> None:
    assert "\n".join(LINES) + "\n" == render(), "run `python tools/env_example.py > .env.example`"


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_it_says_is_the_default(program: type[ProgramSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaded with every variable that has a value uncommented, a program is set as without them."""
    needed = {"model": "a.gguf"} if "model" in program.model_fields else {}
    expected = load_settings(program, needed)
    prefix = program.model_config.get("env_prefix", "")
    for name, value in VARIABLES.items():
        if value and name.startswith((prefix, "SPECULATION_", "ENABLE_")):
            monkeypatch.setenv(name, value)
    assert load_settings(program, needed) == expected
    named = {name.removeprefix(prefix).lower() for name in VARIABLES if name.startswith(prefix)}
    assert named == set(program.model_fields)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_familiar_name_is_in_it(program: type[ProgramSettings]) -> None:
    assert set(program.familiar_names) <= set(VARIABLES)
    assert set(program.familiar_names.values()) <= set(program.model_fields)


def test_every_variable_has_a_line_of_meaning() -> None:
    for before, line in pairwise(LINES):
        if re.match(r"#[A-Z]", line):
            assert re.match(r"# \S", before), line
            assert len(before) <= 120


def test_the_containers_read_nothing_else() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    found = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", compose))
    # Programs send nothing by default, containers to the one that is beside them.
    assert found.pop("OTEL_EXPORTER_OTLP_ENDPOINT") == "http://jaeger:4317"
    assert found
    assert found == {name: VARIABLES.get(name) for name in found}
