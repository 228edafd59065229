"""The options of `outrider bench`, in groups. Lists are parted by commas."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.bench.load.prompts import KINDS
from orchestrator.cli.options import refuse_empty
from services.frame.program.startup import StartupError


@dataclass(frozen=True)
class MeasuredOptions:
    """What is asked for in every run, and of which settings."""

    prompts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|KIND",
            callback=refuse_empty,
            help=f"what streams go on with, a file or {', '.join(KINDS)}; may be given several times; "
            "functions and edits if absent, prose too for models of your own",
        ),
    ] = None
    streams: Annotated[str, typer.Option(callback=refuse_empty, help="numbers of streams at once")] = "1,4"
    arrival: Annotated[Literal["together", "poisson"], typer.Option(help="all streams at once, or at random times")] = (
        "together"
    )
    rate: Annotated[float, typer.Option(help="arrivals a second with --arrival poisson")] = 1.0
    settings: Annotated[
        str,
        typer.Option(
            callback=refuse_empty,
            help="plain, auto, numbers of draft tokens, ngram (lookup in the text), prediction (lookup and what the "
            "prompt's prediction expects, else what plain decoding says, every tenth line of it edited), alone (plain "
            "without a draft service); plain,auto,1,3,7 if absent, plain,ngram without a draft",
        ),
    ] = ""
    exact: Annotated[
        str, typer.Option(callback=refuse_empty, help="off, on or auto, or several; the first is compared with others")
    ] = "off"
    tokens: Annotated[int, typer.Option(min=2, max=1 << 20, help="tokens of each stream")] = 128
    seed: Annotated[int, typer.Option(help="of the order of runs and of random arrivals")] = 1


@dataclass(frozen=True)
class CourseOptions:
    """How long it may take, and on what."""

    rounds: Annotated[int, typer.Option(min=0, help="rounds over the best three settings, after one over all")] = 5
    budget: Annotated[float, typer.Option(min=0, help="seconds that it may take, about; 0 is no limit")] = 110.0
    context: Annotated[int, typer.Option(min=32, max=1 << 20, help="tokens of each slot")] = 1024
    threads: Annotated[int, typer.Option(min=0, max=1024, help="threads of a decode; 0 takes all cores")] = 0
    anatomy: Annotated[
        bool,
        typer.Option(
            "--anatomy/--no-anatomy",
            help="whether runs with traces follow, which say where the time went; their spans go to a file",
        ),
    ] = True
    gpu_layers: Annotated[
        int | None, typer.Option(min=-1, max=1 << 16, help="layers on the GPU; -1 as many as fit, 0 none")
    ] = None


@dataclass(frozen=True)
class PeersOptions:
    """What else is measured, in the same run."""

    peer_llama_server: Annotated[
        str | None, typer.Option(metavar="PROGRAM", callback=refuse_empty, help="llama-server, on the same files")
    ] = None
    peer_settings: Annotated[
        str,
        typer.Option(
            callback=refuse_empty,
            help="of llama-server: plain, numbers of draft tokens, NUMBER/P with a least probability P, ngram-simple, "
            "ngram-map-k, ngram-map-k4v, ngram-mod, ngram-cache; plain, the numbers of --settings, "
            "16/0.75, ngram-simple and ngram-mod if absent",
        ),
    ] = ""
    peer_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            callback=refuse_empty,
            help="a server that streams OpenAI's completions, as http://host:8000/v1; its key is in "
            "OUTRIDER_BENCH_PEER_KEY or OPENAI_API_KEY",
        ),
    ] = None
    peer_model: Annotated[
        str, typer.Option(callback=refuse_empty, help="what that server calls its model; the first it lists if absent")
    ] = ""
    against: Annotated[
        str | None, typer.Option(metavar="CHECKOUT", callback=refuse_empty, help="another checkout of this project")
    ] = None


@dataclass(frozen=True)
class OutOptions:
    """Where results go."""

    out: Annotated[
        str, typer.Option(metavar="FILE", callback=refuse_empty, help="files to write, without .json, .md and .svg")
    ] = "outrider-bench"
    is_plotted: Annotated[bool, typer.Option("--plot", help="draw a picture too, which needs matplotlib")] = False

    def path(self, ending: str) -> Path:
        """Return a file to write. Raises StartupError where it cannot be written."""
        path = Path(f"{self.out}.{ending}")
        if not path.parent.is_dir():
            raise StartupError(f"there is no folder {path.parent} for --out")
        if not os.access(path.parent, os.W_OK):
            raise StartupError(f"cannot write into {path.parent}: give another place with --out")
        if path.is_dir():
            raise StartupError(f"cannot write {path}, which is a folder: give another place with --out")
        return path
