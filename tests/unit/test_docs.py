"""What the documents name exists, and what exists is named."""

import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo
from typer.main import get_command

from orchestrator.cli.commands import app
from orchestrator.settings import OrchestratorSettings
from services.draft.settings import DraftSettings
from services.frame.healthcheck import HealthcheckSettings
from services.frame.program.settings import ProgramSettings
from services.target.settings import TargetSettings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "examples" / "README.md",
]
# The sections of docs/operations.md whose tables hold a program's settings.
SECTIONS: dict[type[ProgramSettings], list[str]] = {
    TargetSettings: ["Every server", "Target and draft", "Target"],
    DraftSettings: ["Every server", "Target and draft", "Draft"],
    OrchestratorSettings: ["Every server", "Orchestrator", "Calls to servers"],
    HealthcheckSettings: ["Health check", "Calls to servers"],
}


def _operations() -> str:
    return (ROOT / "docs" / "operations.md").read_text()


def _rows(section: str) -> list[list[str]]:
    """The cells of the tables of a section, without their heads."""
    found = re.search(rf"^#+ {re.escape(section)}\n(.*?)(?=^#|\Z)", _operations(), re.MULTILINE | re.DOTALL)
    assert found, f"docs/operations.md has no section {section!r}"
    lines = [line for line in found[1].splitlines() if line.startswith("| `")]
    assert lines, f"section {section!r} has no table"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def _default(field: FieldInfo) -> str:
    """A default as the tables show it."""
    match field.default:
        case _ if field.is_required():
            return "needed"
        case None | "":
            return "none"
        case bool():
            return "on" if field.default else "off"
        case float():
            return f"{field.default:g}"
        case other:
            return str(other)


@pytest.mark.parametrize("program", SECTIONS, ids=lambda program: program.__name__)
def test_every_setting_is_documented_with_its_default(program: type[ProgramSettings]) -> None:
    settings = {
        "--" + name.replace("_", "-"): _default(field)
        for name, field in program.model_fields.items()
        # The health check answers by its exit code and logs nothing.
        if not (program is HealthcheckSettings and name in ProgramSettings.model_fields)
    }
    assert {cells[0].strip("`"): cells[1] for section in SECTIONS[program] for cells in _rows(section)} == settings


def test_every_variable_of_other_engines_is_documented() -> None:
    names = {name for program in SECTIONS for name in program.familiar_names}
    names |= {name for command in _commands().values() for each in command.params for name in _variables(each)}
    names = {name for name in names if not name.startswith("OUTRIDER_")}
    assert {cells[0].strip("`") for cells in _rows("Names from other engines")} == names > set()


def _variables(parameter: Any) -> list[str]:
    """The variables of the environment that set an option of the command line."""
    variables = parameter.envvar or []
    return [variables] if isinstance(variables, str) else list(variables)


def _commands() -> dict[str, Any]:
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    return commands


def test_every_command_is_documented_with_its_options() -> None:
    options = {
        f"outrider {name}": sorted(option for each in command.params for option in each.opts if option[0] == "-")
        for name, command in _commands().items()
    }
    documented = {cells[0].strip("`"): sorted(re.findall(r"--[\w-]+", cells[1])) for cells in _rows("Command line")}
    assert documented == options


def test_every_metric_is_documented() -> None:
    created = re.compile(r'\.create_\w+\(\s*"([^"]+)"')
    sources = [path for folder in ("services", "orchestrator") for path in (ROOT / folder).rglob("*.py")]
    names = {name for path in sources for name in created.findall(path.read_text())}
    assert {cells[0].strip("`") for cells in _rows("Metrics")} == names > set()


def _anchors(text: str) -> set[str]:
    """The anchors of a document's headings, as they are made on the web."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _links(document: Path) -> Iterable[str]:
    return (link for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()) if "://" not in link)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in _links(document):
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target.read_text()), link


def test_the_newest_version_has_its_changes() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(heading for heading in headings if heading != "Unreleased") == version


def test_every_target_of_make_is_documented() -> None:
    (targets,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert [name for name in targets.split() if name != "help" and f"| `make {name}` |" not in text] == []


def test_the_node_client_names_exact_versions() -> None:
    folder = ROOT / "examples" / "node"
    package = json.loads((folder / "package.json").read_text())
    assert package["dependencies"]
    for name, version in package["dependencies"].items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), name
    assert (folder / ".npmrc").read_text() == "package-lock=false\n", "a lock file tells where packages came from"


def test_the_table_of_judges_is_what_they_found() -> None:
    section = (ROOT / "docs" / "http.md").read_text().partition("## Judged by others")[2]
    rows = [
        [cell.strip() for cell in row.strip("|").split(" | ")] for row in re.findall(r"^\| `.*", section, re.MULTILINE)
    ]
    told = [(row[0].split("`")[1], row[1], int(row[3]), int(row[4])) for row in rows]
    judges = json.loads((ROOT / "benchmarks" / "results" / "judges.json").read_text())
    assert told == [(each["package"], each["version"], each["num_checks"], len(each["failed"])) for each in judges]
