"""A target or draft service that writes down who was in which decode, for company.py.

`python benchmarks/company_service.py --service target|draft --record PATH FLAGS` takes the service's flags besides, and
writes a JSON line for each decode: when it ran, in seconds of `time.perf_counter`, and the rows of each session in it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.draft.application import DraftApplication
from services.draft.settings import DraftSettings
from services.engine.runtime.interface import Logits, Segment
from services.engine.scheduling import scheduler
from services.engine.scheduling.engine import Engine
from services.engine.startup.application import ModelApplication
from services.frame.program.settings import parse_settings
from services.frame.run import run_server
from services.frame.server import FrameServer
from services.target.application import TargetApplication
from services.target.settings import TargetSettings

SERVICES = {"target": (TargetApplication, TargetSettings), "draft": (DraftApplication, DraftSettings)}


class Recorder:
    """Writes decodes to a file as they come."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", buffering=1)

    def record(self, decode: "scheduler.Decode") -> None:
        """Write one decode. Called from the engine's thread."""
        self.write(decode.started_s, decode.ended_s, decode.sessions, is_verification=decode.is_verification)

    def write(
        self, start_s: float, end_s: float, sessions: Sequence[tuple[str, int]], *, is_verification: bool
    ) -> None:
        """Write what is known of one decode."""
        line = {"start_s": start_s, "end_s": end_s, "sessions": sessions, "is_verification": is_verification}
        self._file.write(json.dumps(line) + "\n")


class Recorded:
    """To be put before an application in a class: its engine is watched once it has started."""

    recorder: Recorder
    engine: Engine | None

    async def start(self, server: FrameServer) -> None:
        """Start, and write down every decode from now on."""
        await super().start(server)  # type: ignore[misc]  # of the application
        assert self.engine is not None
        if hasattr(scheduler, "Decode"):
            self.engine.observe(self.recorder.record)
        else:
            observe_runtime(self.engine, self.recorder)


def observe_runtime(engine: Any, recorder: Recorder) -> None:
    """Watch an engine of a checkout that does not tell who was in a decode yet, through its runtime."""
    runtime, slots = engine._runtime, engine._scheduler.slots.slots
    decode = runtime.decode

    def recorded(segments: Sequence[Segment]) -> list[Logits]:
        start_s = time.perf_counter()
        logits: list[Logits] = decode(segments)
        sessions = [(slots[segment.slot].session_id, len(segment.tokens)) for segment in segments]
        is_verification = all(len(segment.tokens) <= segment.num_outputs + 1 for segment in segments)
        recorder.write(start_s, time.perf_counter(), sessions, is_verification=is_verification)
        return logits

    runtime.decode = recorded


def recorded_application(kind: str, recorder: Recorder) -> type[ModelApplication]:
    """Return the class of a service's application that has its decodes written down."""
    application, _ = SERVICES[kind]
    return type("RecordedApplication", (Recorded, application), {"recorder": recorder})


def main() -> int:
    """Run the service until it is told to stop; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0], add_help=False, allow_abbrev=False)
    parser.add_argument("--service", choices=SERVICES, required=True)
    parser.add_argument("--record", type=Path, required=True)
    arguments, flags = parser.parse_known_args()
    settings = parse_settings(SERVICES[arguments.service][1], flags)
    application = recorded_application(arguments.service, Recorder(arguments.record))
    return run_server(settings, application(settings), f"outrider-{arguments.service}")


if __name__ == "__main__":
    sys.exit(main())
