"""Writes `.env.example`: every variable that our programs read, with its default and one line of meaning.

`python tools/env_example.py > .env.example`
"""

from collections.abc import Iterator

from orchestrator.settings import OrchestratorSettings
from services.draft.settings import DraftSettings
from services.frame.healthcheck import HealthcheckSettings
from services.frame.program.settings import ProgramSettings
from services.target.settings import TargetSettings

_HEAD = """\
# Every variable that Outrider reads, commented out, with its default. Copy this file to .env and change what you like.
# docker-compose finds .env by itself; a shell loads it with: set -a; . ./.env; set +a
# A flag on the command line wins over its variable."""
_PROGRAMS: tuple[tuple[str, type[ProgramSettings]], ...] = (
    ("The target service, however it is started", TargetSettings),
    ("The draft service, however it is started", DraftSettings),
    ("The orchestrator, however it is started", OrchestratorSettings),
    ("The health check", HealthcheckSettings),
)
# Name, default, meaning.
_OTHERS: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    (
        "Names that users of other engines know; those above win over them",
        (
            ("TARGET_MODEL_PATH", "", "OUTRIDER_TARGET_MODEL"),
            ("DRAFT_MODEL_PATH", "", "OUTRIDER_DRAFT_MODEL; `outrider` goes on without a file that is not there"),
            ("ENABLE_SPECULATIVE", "true", "OUTRIDER_ORCHESTRATOR_DRAFTER: true is auto, false is none"),
            ("SPECULATION_DEPTH", "16", "OUTRIDER_ORCHESTRATOR_MAX_DRAFT_TOKENS"),
        ),
    ),
    (
        "The command line, where it calls an orchestrator that runs",
        (("OUTRIDER_API_KEY", "", "the key that it shows, where no --peer-api-key-file names another"),),
    ),
    (
        "Models named hf:owner/repo/file.gguf, read by huggingface_hub with other variables that start with HF_",
        (
            ("HF_ENDPOINT", "https://huggingface.co", "where the hub is"),
            ("HF_TOKEN", "", "for private and gated repositories"),
            ("HF_HOME", "~/.cache/huggingface", "where files are kept"),
            ("HF_HUB_OFFLINE", "0", "1 takes what is kept and asks nobody"),
        ),
    ),
    (
        "Traces and metrics, read by OpenTelemetry with other variables that start with OTEL_",
        (
            (
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                "",
                "where they are sent over OTLP, as in http://localhost:4317; turns them on",
            ),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "grpc, or http/protobuf"),
            ("OTEL_TRACES_EXPORTER", "", "otlp, console or none, or several with commas"),
            ("OTEL_METRICS_EXPORTER", "", "the same for metrics"),
            ("OTEL_SDK_DISABLED", "false", "true turns both off"),
            ("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "false", "true puts prompts and text into traces"),
        ),
    ),
    (
        "docker-compose.yml alone; those of OpenTelemetry above hold there too",
        (
            ("OUTRIDER_MODELS", "./models/pair", "folder with the model files"),
            ("TARGET_MODEL", "target.gguf", "file of the target in that folder"),
            ("DRAFT_MODEL", "draft.gguf", "file of the draft in that folder"),
            ("OUTRIDER_PORT", "50050", "port of the orchestrator on this machine"),
            ("JAEGER_PORT", "16686", "port of the page with the traces"),
            ("PROMETHEUS_PORT", "9090", "port of Prometheus"),
            ("GRAFANA_PORT", "3000", "port of the dashboard"),
            ("BASE_IMAGE", "python:3.11-slim-bookworm", "image that the services run in"),
            ("BUILD_IMAGE", "python:3.11-slim-bookworm", "image that they are built in"),
            ("CMAKE_ARGS", "", "how llama.cpp is built"),
            ("PIP_INDEX_URL", "", "package index of the build"),
            ("PIP_NO_INDEX", "", "1 builds from deploy/wheels alone"),
        ),
    ),
)


def render() -> str:
    """Return the text of the file."""
    return "\n".join([_HEAD, *_program_lines(), *_other_lines()]) + "\n"


def _program_lines() -> Iterator[str]:
    for title, settings in _PROGRAMS:
        yield f"\n## {title}: {settings.program}"
        for name, field in settings.model_fields.items():
            default = "" if field.is_required() or field.default is None else field.default
            variable = f"{settings.model_config.get('env_prefix', '')}{name}".upper()
            yield from _entry(
                variable, str(default).lower() if isinstance(default, bool) else str(default), field.description or ""
            )


def _other_lines() -> Iterator[str]:
    for title, entries in _OTHERS:
        yield f"\n## {title}"
        for entry in entries:
            yield from _entry(*entry)


def _entry(name: str, default: str, meaning: str) -> Iterator[str]:
    yield f"# {meaning}"
    yield f"#{name}={default}"


if __name__ == "__main__":
    print(render(), end="")
