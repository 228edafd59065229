"""`outrider bench`. What it does is in `measuring`, which loads more than other commands need."""

from orchestrator.cli.bench_options import CourseOptions, MeasuredOptions, OutOptions, PeersOptions
from orchestrator.cli.options import DraftOption, JsonOption, TargetOption
from services.frame.program.startup import StartupError


def bench(
    measured: MeasuredOptions,
    course: CourseOptions,
    peers: PeersOptions,
    out: OutOptions,
    target: TargetOption = None,
    draft: DraftOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure whether a draft is worth it on this machine, and how much it gains or loses beside other servers.

    Ends with one sentence and the tables under it. Ctrl-C ends it with what was measured so far.
    """
    try:
        from orchestrator.cli import measuring  # noqa: PLC0415  numpy and psutil, which no other command waits for
    except ModuleNotFoundError as error:
        raise StartupError(f"`outrider bench` needs {error.name}: pip install 'outrider[engine]'") from error
    measuring.measure(measured, course, peers, out, target, draft, as_json)
