"""`outrider-orchestrator`, or `python -m orchestrator`: the orchestrator."""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
import sys
from collections.abc import Sequence

from orchestrator.application import OrchestratorApplication
from orchestrator.settings import OrchestratorSettings
from services.frame.program.output import guarded_output
from services.frame.program.settings import parse_settings
from services.frame.run import run_server


@guarded_output(OrchestratorSettings.program)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the orchestrator until it is told to stop; return the exit code."""
    settings = parse_settings(OrchestratorSettings, argv)
    return run_server(
        settings,
        OrchestratorApplication(settings),
        "outrider-orchestrator",
        has_metrics_page=bool(settings.http) and settings.http_metrics != "off",
    )


if __name__ == "__main__":
    sys.exit(main())
