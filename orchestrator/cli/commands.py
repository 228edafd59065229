"""The command line: serve, generate, chat, status, pair, bench, costs."""

import services.frame.program.importing  # noqa: F401, I001  before what takes its time
import asyncio
import json
import shutil
import sys
from dataclasses import asdict
from typing import Annotated

import grpc
import typer
from rich.console import Console, ConsoleDimensions
from typer import TyperException

from orchestrator.cli.asking import current_status, hold_chat, stream_text
from orchestrator.cli.bench import bench
from orchestrator.cli.beside import pair_differences, run_beside
from orchestrator.cli.costs import costs
from orchestrator.cli.http_address import http_address, http_line
from orchestrator.cli.interrupts import Interrupted, end_line, interruptible, run
from orchestrator.cli.option_groups import with_groups
from orchestrator.cli.options import (
    MODEL,
    AddressOption,
    CallerOptions,
    JsonOption,
    ModelOptions,
    PeerOptions,
    is_given,
    refuse_empty,
    refuse_unreachable,
    stack_credentials,
)
from orchestrator.stack.process import CrashedError, RefusedError
from orchestrator.cli.request import (
    AnswerOptions,
    RequestOptions,
    TemplateOptions,
    check_draft_alone,
    check_size,
)
from orchestrator.cli.show import pair_lines, status_table, to_json
from orchestrator.cli.simulate import simulate
from orchestrator.cli.texts import read_prediction, read_prompt
from orchestrator.stack.stack import Stack, StackOptions
from services.frame.program.logging import configure_logging
from services.frame.program.output import CODE_FAILED, CODE_INTERRUPTED, announce, guarded_output, say
from services.frame.program.startup import CODE_REFUSED, StartupError, exhausted, refuse
from services.frame.program.version import VERSION
from services.frame.rpc.errors import ServiceError

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
)

# Of what is no terminal: who reads it breaks lines as they like.
_MOST_COLUMNS = 1000
app = typer.Typer(add_completion=False, rich_markup_mode=None)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"outrider {VERSION}")
        raise typer.Exit


@app.callback()
def outrider(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Speculative decoding as services."""
    configure_logging("warning", "text", "outrider")


@app.command()
@with_groups
def serve(
    models: ModelOptions,
    callers: CallerOptions,
    host: Annotated[
        str,
        typer.Option(
            callback=refuse_empty,
            envvar="OUTRIDER_ORCHESTRATOR_HOST",
            help="address to listen on, or unix:/path, a socket without a port",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, envvar="OUTRIDER_ORCHESTRATOR_PORT", help="port to listen on; 0 takes a free one"
        ),
    ] = 50050,
    http: Annotated[
        str | None,
        typer.Option(
            envvar="OUTRIDER_ORCHESTRATOR_HTTP",
            metavar="HOST:PORT",
            help="address to serve HTTP on; 127.0.0.1:8080 if absent, or a free port where that is taken; '' is none",
        ),
    ] = None,
    slots: Annotated[
        int | None, typer.Option(min=1, max=256, help="sessions cached at a time, of target and draft alike")
    ] = None,
    context: Annotated[
        int | None, typer.Option(min=32, max=1 << 20, help="tokens of each slot, of target and draft alike")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=0, max=1024, help="threads of a decode, of target and draft alike; 0 takes all cores"),
    ] = None,
    gpu_layers: Annotated[
        int | None,
        typer.Option(
            min=-1, max=1 << 16, help="layers on the GPU, of target and draft alike; -1 as many as fit, 0 none"
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            callback=refuse_empty, help="least severe messages that are logged; as each service is set if absent"
        ),
    ] = None,
) -> None:
    """Run target, draft and orchestrator as three processes on loopback, gRPC and HTTP in front. Ctrl-C stops all."""
    configure_logging("info", "text", "outrider")
    given = {"--slots": slots, "--context": context, "--threads": threads, "--gpu-layers": gpu_layers}
    flags = [f"{flag}={value}" for flag, value in given.items() if value is not None]
    address = http_address(http)
    options = models.stack(host=host, port=port, http=address, log_level=log_level, model_flags=flags, callers=callers)
    run(_serve(options, http_line(address, http, callers.values()) if address else ""))


@app.command(name="generate")
@with_groups
def generate_command(
    context: typer.Context,
    models: ModelOptions,
    asked: RequestOptions,
    peer: PeerOptions,
    prompt: Annotated[str | None, typer.Argument(help="text to go on with; - takes it from stdin")] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", callback=refuse_empty, help="file with the text to go on with, less its last newline"),
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            callback=refuse_empty,
            help="file with the text that is expected: where it is right the answer comes quicker, and is the same",
        ),
    ] = None,
    address: AddressOption = "",
    as_json: JsonOption = False,
) -> None:
    """Stream a generation; accepted, recovered and bonus tokens each have a colour.

    The prompt is plain text, markers of chats included.
    """
    request = asked.request(models.drafter)
    request.text = read_prompt(prompt, file)
    if prediction is not None:
        request.prediction.CopyFrom(read_prediction(prediction))
    check_size(request)
    options = models.own_stack(context, address)
    check_draft_alone(request, has_draft=options is None or options.draft is not None)
    run(stream_text(address, peer.credentials(address), options, request, as_json))


@app.command()
@with_groups
def chat(
    context: typer.Context,
    models: ModelOptions,
    template: TemplateOptions,
    asked: AnswerOptions,
    peer: PeerOptions,
    address: AddressOption = "",
) -> None:
    """Talk with a model that has a chat template; an empty line or Ctrl-D ends it, Ctrl-C an answer.

    Several lines are one message where the first begins with three double quotes and the last ends with them.
    """
    request = asked.request(models.drafter)
    request.chat.CopyFrom(template.chat())
    options = models.own_stack(context, address)
    check_draft_alone(request, has_draft=options is None or options.draft is not None)
    if options is not None and not (is_given(context, "temperature") or is_given(context, "top_p")):
        models.advise(request.sampling)
    run(hold_chat(address, peer.credentials(address), options, request))


@app.command()
@with_groups
def status(
    peer: PeerOptions,
    address: Annotated[str, typer.Option(callback=refuse_unreachable, help="the orchestrator")] = "127.0.0.1:50050",
    as_json: JsonOption = False,
) -> None:
    """Tell what an orchestrator is connected to and how it is doing."""
    reply = run(current_status(address, peer.credentials(address)))
    if as_json:
        print(json.dumps(to_json(reply)))
    else:
        out = Console(highlight=False)
        # Rich takes what is no terminal for 80 columns wide, and dumb ones too.
        if not out.is_terminal:
            out.width = _MOST_COLUMNS
        elif out.is_dumb_terminal:
            out.size = ConsoleDimensions(*shutil.get_terminal_size())
        out.print(status_table(reply))


@app.command()
def pair(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", callback=refuse_empty, help=f"GGUF file of the target, {MODEL}")
    ],
    draft: Annotated[
        str, typer.Argument(metavar="DRAFT", callback=refuse_empty, help=f"GGUF file of the draft, {MODEL}")
    ],
    as_json: JsonOption = False,
) -> None:
    """Tell whether a draft fits a target, and all in which they differ. Exit code 1 when it does not."""
    found = run(pair_differences(target, draft, stack_credentials()))
    problem = next((difference.sentence for difference in found if difference.is_harmful), "")
    if as_json:
        print(json.dumps({"fits": not problem, "reason": problem, "differences": [asdict(each) for each in found]}))
    else:
        print("\n".join(pair_lines(found)))
    sys.exit(CODE_FAILED if problem else 0)


app.command()(with_groups(bench))
app.command()(costs)
app.command()(simulate)


@guarded_output("outrider")
def main() -> None:
    """Run the command line. Bad use ends with one sentence and exit code 2, failures with 1, signals with 128 + N."""
    try:
        with interruptible():
            sys.exit(app(standalone_mode=False, prog_name="outrider"))
    except TyperException as error:
        refuse(error.format_message())
    except RefusedError:  # the process has said why
        sys.exit(CODE_REFUSED)
    except CrashedError as error:
        say("outrider", str(error))
        sys.exit(CODE_FAILED)
    except StartupError as error:
        refuse(error)
    except ServiceError as error:
        if error.code in _REFUSALS:
            refuse(error.message)
        say("outrider", error.message)
        sys.exit(CODE_FAILED)
    except (MemoryError, RuntimeError) as error:
        if (problem := exhausted(error)) is None:
            raise
        refuse(problem)
    except Interrupted as error:
        sys.exit(error.code)
    except KeyboardInterrupt:
        end_line()
        sys.exit(CODE_INTERRUPTED)


async def _serve(options: StackOptions, http: str) -> None:
    async def use(address: str) -> None:
        announce(f"serving on {address}")
        if http:
            announce(http)
        await asyncio.Event().wait()

    await run_beside(Stack(options, stack_credentials()), use)
