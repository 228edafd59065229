"""The command line: serve, generate, chat, status, pair."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import grpc
import typer
from rich.console import Console
from typer import TyperException

from orchestrator.cli_options import (
    MODEL,
    AddressOption,
    DrafterOption,
    DraftOption,
    ExactOption,
    JsonOption,
    TargetOption,
    TemperatureOption,
    own_stack,
    refuse_empty,
    speculation_of,
    stack_options,
    valid_prompt,
    valid_temperature,
)
from orchestrator.client import collect, fetch_status, generate, show, status_table, to_json
from orchestrator.model_files import find_model
from orchestrator.pair import PairError, check_pair, fetch_loading_model
from orchestrator.stack import RefusedError, ServerProcess, Stack, StackOptions, while_kept
from outrider.v1 import common_pb2, generation_pb2, target_pb2
from services.frame.channel import open_channel
from services.frame.errors import ServiceError, error_from_rpc
from services.frame.logging import configure_logging
from services.frame.startup import CODE_REFUSED, StartupError, refuse
from services.frame.version import VERSION

CODE_FAILED = 1
CODE_INTERRUPTED = 130
_MOST_TOKENS = 2**31 - 1
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
)

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


@app.command()
def serve(
    target: TargetOption = None,
    draft: DraftOption = None,
    drafter: DrafterOption = None,
    host: Annotated[
        str, typer.Option(callback=refuse_empty, envvar="OUTRIDER_ORCHESTRATOR_HOST", help="address to listen on")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, envvar="OUTRIDER_ORCHESTRATOR_PORT", help="port to listen on; 0 takes a free one"
        ),
    ] = 50050,
    exact: ExactOption = "auto",
    log_level: Annotated[
        str | None,
        typer.Option(
            callback=refuse_empty, help="least severe messages that are logged; as each service is set if absent"
        ),
    ] = None,
) -> None:
    """Run target, draft and orchestrator as three processes on loopback, one public port. Ctrl-C stops all."""
    configure_logging("info", "text", "outrider")
    asyncio.run(_serve(stack_options(target, draft, drafter, exact, host=host, port=port, log_level=log_level)))


@app.command(name="generate")
def generate_command(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="text to go on with")],
    address: AddressOption = "",
    target: TargetOption = None,
    draft: DraftOption = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=_MOST_TOKENS, help="most tokens to generate")] = 128,
    temperature: TemperatureOption = 0.0,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="the same seed gives the same text; drawn if absent")
    ] = None,
    exact: ExactOption = "auto",
    speculation: Annotated[str, typer.Option(help="auto, off, or a fixed number of draft tokens")] = "auto",
    drafter: DrafterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stream a generation; accepted, recovered and bonus tokens each have a colour."""
    request = generation_pb2.GenerateRequest(
        text=valid_prompt(prompt),
        max_tokens=max_tokens,
        sampling=common_pb2.Sampling(temperature=valid_temperature(temperature)),
        seed=seed,
        speculation=speculation_of(speculation, drafter),
    )
    options = own_stack(context, address, target, draft, drafter, exact)
    asyncio.run(_generate(address, options, request, as_json))


@app.command()
def chat(
    context: typer.Context,
    address: AddressOption = "",
    target: TargetOption = None,
    draft: DraftOption = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=_MOST_TOKENS, help="most tokens of an answer")] = 512,
    temperature: TemperatureOption = 0.8,
    exact: ExactOption = "auto",
    drafter: DrafterOption = None,
) -> None:
    """Talk with a model that has a chat template; an empty line or Ctrl-D ends it."""
    options = own_stack(context, address, target, draft, drafter, exact)
    template = generation_pb2.GenerateRequest(
        max_tokens=max_tokens,
        sampling=common_pb2.Sampling(temperature=valid_temperature(temperature)),
        speculation=speculation_of("auto", drafter),
    )
    asyncio.run(_chat(address, options, template))


@app.command()
def status(
    address: Annotated[str, typer.Option(callback=refuse_empty, help="the orchestrator")] = "127.0.0.1:50050",
    as_json: JsonOption = False,
) -> None:
    """Tell what an orchestrator is connected to and how it is doing."""
    reply = asyncio.run(fetch_status(address))
    if as_json:
        print(json.dumps(to_json(reply)))
    else:
        Console(highlight=False).print(status_table(reply))


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
    """Tell whether a draft fits a target, and if not why. Exit code 1 when it does not."""
    problem = asyncio.run(_pair_problem(target, draft))
    if as_json:
        print(json.dumps({"fits": not problem, "reason": problem}))
    else:
        print(problem or "the draft fits the target")
    sys.exit(CODE_FAILED if problem else 0)


def main() -> None:
    """Run the command line. Bad use ends with one sentence and exit code 2, failures with 1."""
    try:
        sys.exit(app(standalone_mode=False, prog_name="outrider"))
    except TyperException as error:
        refuse(error.format_message())
    except RefusedError:  # the process has said why
        sys.exit(CODE_REFUSED)
    except StartupError as error:
        refuse(error)
    except ServiceError as error:
        if error.code in _REFUSALS:
            refuse(error.message)
        print(f"outrider: {error.message}", file=sys.stderr)
        sys.exit(CODE_FAILED)
    except BrokenPipeError:  # whoever read our output has seen enough; nothing must be flushed to them at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(CODE_FAILED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        if sys.stdout.isatty():  # the text may have stopped in the middle of a line
            print()
        sys.exit(CODE_INTERRUPTED)


async def _serve(options: StackOptions) -> None:
    async with Stack(options) as stack:
        await stack.wait_ready()
        print(f"serving on {stack.address}", flush=True)
        await stack.keep()


async def _generate(
    address: str, options: StackOptions | None, request: generation_pb2.GenerateRequest, as_json: bool
) -> None:
    async with _running(address, options) as found:
        messages = generate(found, request)
        if as_json:
            print(json.dumps(await collect(messages)))
        else:
            await show(messages, request.text, Console(highlight=False))


async def _chat(address: str, options: StackOptions | None, template: generation_pb2.GenerateRequest) -> None:
    messages: list[target_pb2.ChatMessage] = []
    console = Console(highlight=False)
    async with _running(address, options) as found:
        if not (await fetch_status(found)).target.model.has_chat_template:
            raise StartupError("the model has no chat template: use `outrider generate`")
        while said := await asyncio.to_thread(_ask, console):
            messages.append(target_pb2.ChatMessage(role="user", content=said))
            request = generation_pb2.GenerateRequest(chat=generation_pb2.ChatPrompt(messages=messages))
            request.MergeFrom(template)
            answer = await show(generate(found, request), "", console)
            messages.append(target_pb2.ChatMessage(role="assistant", content=answer))


def _ask(console: Console) -> str:
    try:
        return console.input("[bold]> [/bold]").strip()
    except EOFError:
        return ""


@asynccontextmanager
async def _running(address: str, options: StackOptions | None) -> AsyncIterator[str]:
    """Give the address of a running orchestrator, of a stack of our own where options are given."""
    if options is None:
        yield address
        return
    async with Stack(options) as stack:
        with Console(stderr=True).status("loading the models"):
            await stack.wait_ready()
        yield stack.address


async def _pair_problem(target: str, draft: str) -> str:
    """Return why the draft does not fit, empty when it does. Both are served for a moment, to read their tokens."""
    services = [
        ServerProcess(module, ("--model", str(find_model(name)), "--slots", "1", "--context", "256", *flags))
        for module, name, flags in (
            ("services.target", target, ("--log-level", "warning", "--exact", "off")),
            ("services.draft", draft, ("--log-level", "warning")),
        )
    ]
    try:
        models = []
        for service in services:
            async with open_channel(await service.start()) as channel:
                models.append(await while_kept(fetch_loading_model(channel), service.keep()))
        check_pair(*models)
    except PairError as error:
        return str(error)
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error) from error
    finally:
        await asyncio.gather(*(service.stop() for service in services))
    return ""


if __name__ == "__main__":
    main()
