"""What docker-compose.yml and the Dockerfiles say fits the programs, and itself. Needs no container engine."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.settings import OrchestratorSettings
from services.draft.settings import DraftSettings
from services.frame.healthcheck import HealthcheckSettings
from services.frame.program.settings import ServerSettings, load_settings
from services.frame.telemetry import SHUTDOWN_S
from services.target.settings import TargetSettings

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, type[ServerSettings]] = {
    "target": TargetSettings,
    "draft": DraftSettings,
    "orchestrator": OrchestratorSettings,
}
# Compose files have defaults, as in ${NAME:-default}.
VARIABLE = re.compile(r"\$\{\w+:?-([^}]*)\}")


def compose() -> Any:
    return json.loads(VARIABLE.sub(r"\1", json.dumps(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))))


def dockerfile(service: str) -> str:
    path: str = compose()["services"][service]["build"]["dockerfile"]
    return (ROOT / path).read_text()


@pytest.mark.parametrize("service", SERVICES)
def test_the_environment_of_a_container_starts_its_service(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = dict(re.findall(r"(OUTRIDER_\w+)=(\S+)", dockerfile(service)))
    variables |= compose()["services"][service]["environment"]
    for name, value in variables.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    settings = load_settings(SERVICES[service])
    prefix = f"OUTRIDER_{service.upper()}_"
    named = {name.removeprefix(prefix).lower() for name in variables if name.startswith(prefix)}
    assert named <= set(SERVICES[service].model_fields)
    assert settings.host == "0.0.0.0"
    assert f"EXPOSE {settings.port}\n" in dockerfile(service)
    assert load_settings(HealthcheckSettings).address == f"127.0.0.1:{settings.port}"
    if isinstance(settings, OrchestratorSettings):
        assert settings.target == f"target:{TargetSettings.model_fields['port'].default}"
        assert settings.draft == f"draft:{DraftSettings.model_fields['port'].default}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_runs_a_script_of_ours(service: str) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert f"outrider-{service}" in scripts
    last_stage = dockerfile(service).rpartition("\nFROM ")[2]
    assert f'\nENTRYPOINT ["outrider-{service}"]\n' in last_stage


def test_a_target_can_be_served_without_a_draft() -> None:
    """`docker-compose up orchestrator` starts neither a draft, which restarts for ever without a file, nor Jaeger.

    Nor does anything wait for a target that is healthy: of one that never is, the orchestrator's log tells why.
    """
    needed = compose()["services"]["orchestrator"]["depends_on"]
    assert needed == ["target"]
    assert "depends_on" not in compose()["services"]["target"]


def test_a_missing_draft_can_be_said_to_be_none() -> None:
    """Otherwise the log says every half minute that it does not answer."""
    described = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["orchestrator"]["environment"]
    # Without a colon: set to nothing is not the default.
    assert described["OUTRIDER_ORCHESTRATOR_DRAFT"].startswith("${OUTRIDER_ORCHESTRATOR_DRAFT-")


@pytest.mark.parametrize("service", SERVICES)
def test_variables_of_opentelemetry_hold_in_containers(service: str) -> None:
    named = set(re.findall(r"^#(OTEL_\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    environment = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"][service]["environment"]
    assert named
    assert {name for name in named if name in environment} == named
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"].startswith("${OTEL_EXPORTER_OTLP_ENDPOINT:-")


@pytest.mark.parametrize("service", ["target", "draft"])
def test_draft_and_target_take_turns_as_outside_of_containers(service: str) -> None:
    """The lock of `--core-lock auto` is on the volume that both mount, and the setting can be another."""
    (folder,) = re.findall(r"TMPDIR=(\S+)", dockerfile(service))
    assert f"cache:{folder}" in compose()["services"][service]["volumes"]
    assert compose()["services"][service]["environment"][f"OUTRIDER_{service.upper()}_CORE_LOCK"] is None


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_is_given_the_time_to_stop_that_its_service_takes(service: str) -> None:
    grace = float(compose()["services"][service]["stop_grace_period"].removesuffix("s"))
    assert grace > SERVICES[service].model_fields["drain_timeout_s"].default + SHUTDOWN_S


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_can_do_no_more_than_it_must(service: str) -> None:
    described = compose()["services"][service]
    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert all(volume.endswith(":ro") for volume in described.get("volumes", ()) if volume.startswith("."))
    assert all(port.startswith("127.0.0.1:") for port in described.get("ports", ()))
    last_stage = dockerfile(service).rpartition("\nFROM ")[2]
    assert re.search(r"^USER (?!0|root)", last_stage, re.MULTILINE)


def test_draft_and_target_share_the_stage_that_builds_llama_cpp() -> None:
    first, other = (
        dockerfile(service).partition("\nFROM ")[2].rpartition("\nFROM ")[0] for service in ("draft", "target")
    )
    assert "install.sh dependencies engine" in first
    assert first == other


def test_images_have_versions() -> None:
    images = [service["image"] for service in compose()["services"].values() if "build" not in service]
    assert images
    assert all(re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", image) for image in images)


@pytest.mark.parametrize("service", ["target", "draft"])
def test_what_a_start_measures_outlives_the_container(service: str) -> None:
    (folder,) = re.findall(r"XDG_CACHE_HOME=(\S+)", dockerfile(service))
    assert f"install -d -o 10001 -g 10001 {folder}\n" in dockerfile(service)
    assert f"cache:{folder}" in compose()["services"][service]["volumes"]
