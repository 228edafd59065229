"""What `outrider bench` does once its use is right: systems are measured in turns, and what came of it is told."""

import json
import re
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from orchestrator.bench.course import Course, run_bench
from orchestrator.bench.load.prompts import KINDS, read_prompts
from orchestrator.bench.measuring.bench import Load, Results, tell, writing
from orchestrator.bench.measuring.halving import Deadline
from orchestrator.bench.measuring.machine import describe_machine
from orchestrator.bench.results.plot import check_plotting, plot, plot_reliability
from orchestrator.bench.results.report import markdown, short, summarize
from orchestrator.bench.systems.llama_server import LlamaServer, parse_setting
from orchestrator.bench.systems.openai_server import OpenAiServer
from orchestrator.bench.systems.services import Checkout, Services
from orchestrator.bench.systems.system import PLAIN, Models, Setting, System
from orchestrator.cli.bench_options import CourseOptions, MeasuredOptions, OutOptions, PeersOptions
from orchestrator.cli.interrupts import Interrupted, run, until_interrupted
from orchestrator.cli.model_files import find_pair
from orchestrator.cli.progress import showing
from orchestrator.cli.reporting import show_report
from services.frame.program.output import CODE_FAILED, say
from services.frame.program.startup import StartupError

ItemT = TypeVar("ItemT")
_OURS, _OTHER = "outrider", "other checkout"
_MOST_STREAMS = 256
_PEER_SETTINGS = ("16/0.75", "ngram-simple", "ngram-mod")
# Options that name files.
_PATHS = ("prompts", "peer_llama_server", "against", "out")


def measure(
    measured: MeasuredOptions,
    course: CourseOptions,
    peers: PeersOptions,
    out: OutOptions,
    target: str | None,
    draft: str | None,
    as_json: bool,
) -> None:
    """Measure as the command line says, and tell what came of it.

    Raises StartupError for bad use, before anything is started.
    """
    if out.is_plotted:
        check_plotting()
    streams = _list("--streams", measured.streams, _num_streams)
    target_path, draft_path = find_pair(target, draft, wants_draft=True)
    if measured.tokens >= course.context:
        raise StartupError(f"--context {course.context} does not hold --tokens {measured.tokens} and a prompt")
    models = Models(target_path, draft_path, max(streams), course.context, course.threads, course.gpu_layers)
    systems = _systems(measured, peers, models)
    if measured.arrival == "poisson" and not measured.rate > 0:
        raise StartupError(f"--rate is above 0, not {measured.rate:g}")
    prompts = read_prompts(_prompt_sources(measured.prompts, is_own=target is not None))
    load = Load(prompts, measured.tokens, measured.rate if measured.arrival == "poisson" else 0.0, measured.seed)
    asked = {
        name: _without_folders(value) if name in _PATHS else value
        for group in (measured, course, peers, out)
        for name, value in vars(group).items()
    }
    about = {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "options": {**asked, "target": target_path.name, "draft": draft_path.name if draft_path else None},
        "rate": load.rate,
        "requests": {"temperature": 0, "seed": 1},
    }
    for ending in ("md", *(["svg", "reliability.svg"] if out.is_plotted else [])):
        out.path(ending)
    results = Results(about, out.path("json"))
    how_long = Course(
        streams,
        course.rounds,
        Deadline(course.budget or None),
        measured.seed,
        out.path("spans.jsonl") if course.anatomy else None,
        out.is_plotted,
    )
    run(_measure_and_tell(systems, load, how_long, results, out, as_json))
    if not results.runs:
        # Only a run has a round: what does not start has none.
        is_failed = any("round" in each for each in results.failures)
        reason = "every run failed" if is_failed else "there was no time for a run, give more of it with --budget"
        say("outrider", f"nothing was measured: {reason}")
        sys.exit(CODE_FAILED)


async def _measure_and_tell(
    systems: Sequence[System], load: Load, course: Course, results: Results, out: OutOptions, as_json: bool
) -> None:
    def describe(since_s: float) -> str:
        left_s = course.deadline.left_s
        return f"{results.doing}: {since_s:.0f} s so far" + (f", about {left_s:.0f} s left" if left_s else "")

    async def measure_all() -> bool:
        async with showing(describe):
            await run_bench(systems, load, course, results)
        return True

    is_whole = await until_interrupted(measure_all())
    if results.runs:
        _report(results, systems[0].name, out, as_json)
    if not is_whole:
        raise Interrupted(signal.SIGINT)


def _without_folders(value: object) -> object:
    """Return the name of a file, or of each: results are passed on, and say nothing of who measured."""
    if isinstance(value, list):
        return [_without_folders(each) for each in value]
    return None if value is None else Path(str(value)).name


def _report(results: Results, system: str, out: OutOptions, as_json: bool) -> None:
    results.found["summary"] = summary = summarize(results.to_json(), system)
    results.save()
    with writing(out.path("md")) as temporary:
        temporary.write_text(markdown(results.to_json(), system))
    if out.is_plotted:
        try:
            plot(results.to_json(), out.path("svg"))
            if results.found.get("reliability"):
                plot_reliability(results.found["reliability"], out.path("reliability.svg"))
        except OSError as error:
            raise StartupError(f"cannot write {out.out}.svg: {error.strerror or error}") from error
    where = ", with where the time went" if results.found.get("anatomies") else ""
    tell(f"written to {out.out}.json and .md{where}" + (", and .svg" if out.is_plotted else ""))
    if as_json:
        print(json.dumps({"about": results.about, **summary}))
    else:
        show_report(short(results.to_json(), summary), f"{out.out}.md")


def _systems(measured: MeasuredOptions, peers: PeersOptions, models: Models) -> list[System]:
    """Return what is measured, ours first. Raises StartupError."""
    has_draft = models.draft is not None
    default = "plain,auto,1,3,7" if has_draft else "plain,ngram"
    settings = _list("--settings", measured.settings or default, Setting.parse)
    if not has_draft and (drafted := [each.name for each in settings if each.kind == "fixed"]):
        raise StartupError(f"--settings has {drafted[0]}, which needs a --draft")
    settings = [Setting(PLAIN), *(each for each in settings if each.kind != PLAIN)]
    first, *others = _list("--exact", measured.exact, _exact)
    systems: list[System] = [Services(_OURS, Checkout(), models, [*settings, Setting("again")], exact=first)]
    systems += [Services(f"{_OURS}, exact {exact}", Checkout(), models, settings, exact=exact) for exact in others]
    if peers.against:
        checkout = Checkout(Path(peers.against).absolute())
        if problem := checkout.problem:
            raise StartupError(f"--against is the folder of a checkout of this project, and {peers.against} {problem}")
        systems.append(Services(_OTHER, checkout, models, settings, exact=first))
    if peers.peer_settings and not peers.peer_llama_server:
        raise StartupError("--peer-settings is of a peer that --peer-llama-server names, and that is absent")
    if peers.peer_model and not peers.peer_url:
        raise StartupError("--peer-model is of a peer that --peer-url names, and that is absent")
    if peers.peer_llama_server:
        program = Path(peers.peer_llama_server)
        if not program.is_file():
            raise StartupError(f"there is no program {program}, which --peer-llama-server names")
        systems.append(LlamaServer(program.absolute(), models, _peer_settings(peers, settings, models)))
    if peers.peer_url:
        if not re.match(r"https?://[^/]+", peers.peer_url):
            raise StartupError(f"--peer-url is an address such as http://host:8000/v1, not {peers.peer_url!r}")
        systems.append(OpenAiServer(peers.peer_url, peers.peer_model))
    return systems


def _peer_settings(peers: PeersOptions, settings: Sequence[Setting], models: Models) -> list[Setting]:
    if peers.peer_settings:
        found = _list("--peer-settings", peers.peer_settings, parse_setting)
    else:
        numbers = [each.name for each in settings if each.kind == "fixed"]
        found = [parse_setting(name) for name in (PLAIN, *numbers, *_PEER_SETTINGS)]
    return found if models.draft is not None else [each for each in found if each.kind != "fixed"]


def _prompt_sources(given: Sequence[str] | None, *, is_own: bool) -> list[str]:
    """Return kinds and files; kinds may stand together with commas between them."""
    sources: list[str] = []
    for each in given or ["functions,edits" + (",prose" if is_own else "")]:
        parts = each.split(",")
        sources += parts if all(part in KINDS for part in parts) else [each]
    return sources


def _list(option: str, text: str, parse: Callable[[str], ItemT]) -> list[ItemT]:
    """Return what an option lists, each once. Raises StartupError."""
    try:
        return list(dict.fromkeys(parse(part) for part in re.split(r"[ ,]+", text.strip(" ,"))))
    except ValueError as error:
        raise StartupError(f"{option} is {text!r}: {error}") from error


def _num_streams(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_STREAMS:
        raise ValueError(f"1 to {_MOST_STREAMS} streams can run at once, not {text!r}")
    return int(text)


def _exact(text: str) -> str:
    if text not in ("off", "on", "auto"):
        raise ValueError(f"{text!r} is none of off, on and auto")
    return text
