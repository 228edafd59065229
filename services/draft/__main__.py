"""`outrider-draft`, or `python -m services.draft`: the draft service."""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
import sys
from collections.abc import Sequence

from services.draft.application import DraftApplication
from services.draft.settings import DraftSettings
from services.frame.program.output import guarded_output
from services.frame.program.settings import parse_settings
from services.frame.run import run_server


@guarded_output(DraftSettings.program)
def main(argv: Sequence[str] | None = None) -> int:
    """Run the service until it is told to stop; return the exit code."""
    settings = parse_settings(DraftSettings, argv)
    return run_server(settings, DraftApplication(settings), "outrider-draft")


if __name__ == "__main__":
    sys.exit(main())
