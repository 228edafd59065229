"""`outrider-target`, or `python -m services.target`: the target service."""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
import sys
from collections.abc import Sequence

from services.frame.program.output import guarded_output
from services.frame.program.settings import parse_settings
from services.frame.run import run_server
from services.target.application import TargetApplication
from services.target.settings import TargetSettings


@guarded_output(TargetSettings.program)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the service until it is told to stop; return the exit code."""
    settings = parse_settings(TargetSettings, argv)
    return run_server(settings, TargetApplication(settings), "outrider-target")


if __name__ == "__main__":
    sys.exit(main())
