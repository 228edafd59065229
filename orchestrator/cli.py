"""The command line: serve, generate, chat, status, pair."""

import services.frame.importing  # noqa: F401, I001  before what takes its time
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Annotated, Any

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
    FrequencyOption,
    JsonOption,
    MaxTokensOption,
    MinPOption,
    PeerCaOption,
    PeerCertOption,
    PeerKeyOption,
    PeerTlsOption,
    PresenceOption,
    RepetitionOption,
    SeedOption,
    SpeculationOption,
    StopOption,
    TargetOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    orchestrator_tls,
    own_stack,
    peer_tls,
    read_prompt,
    refuse_empty,
    refuse_unreachable,
    sampling_of,
    speculation_of,
    stack_options,
    valid_max_tokens,
    valid_prompt,
)
from orchestrator.cli_stack import pair_differences, run_beside
from orchestrator.client import collect, fetch_status, generate, pair_lines, show, show_answer, status_table, to_json
from orchestrator.interrupts import Interrupted, interruptible, run, until_interrupted
from orchestrator.process import CrashedError, RefusedError
from orchestrator.progress import waiting, watched
from orchestrator.stack import Stack, StackOptions
from orchestrator.stdin import Lines, read_message
from outrider.v1 import generation_pb2, target_pb2
from services.frame.channel import ClientTls
from services.frame.errors import ServiceError
from services.frame.logging import configure_logging
from services.frame.output import CODE_FAILED, CODE_INTERRUPTED, announce, guarded_output, say
from services.frame.startup import CODE_REFUSED, StartupError, exhausted, refuse
from services.frame.version import VERSION

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
    configure_logging("warning", "text", "outrider")


@app.command()
def serve(
    target: TargetOption = None,
    draft: DraftOption = None,
    drafter: DrafterOption = None,
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
    exact: ExactOption = "auto",
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
    """Run target, draft and orchestrator as three processes on loopback, one public port. Ctrl-C stops all."""
    configure_logging("info", "text", "outrider")
    given = {"--slots": slots, "--context": context, "--threads": threads, "--gpu-layers": gpu_layers}
    flags = [f"{flag}={value}" for flag, value in given.items() if value is not None]
    run(
        _serve(
            stack_options(target, draft, drafter, exact, host=host, port=port, log_level=log_level, model_flags=flags)
        )
    )


@app.command(name="generate")
def generate_command(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="text to go on with; - takes it from stdin")] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", callback=refuse_empty, help="file with the text to go on with, less its last newline"),
    ] = None,
    address: AddressOption = "",
    target: TargetOption = None,
    draft: DraftOption = None,
    max_tokens: MaxTokensOption = 128,
    temperature: TemperatureOption = 0.0,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionOption = None,
    presence_penalty: PresenceOption = None,
    frequency_penalty: FrequencyOption = None,
    stop: StopOption = None,
    seed: SeedOption = None,
    exact: ExactOption = "auto",
    speculation: SpeculationOption = "auto",
    drafter: DrafterOption = None,
    over_tls: PeerTlsOption = False,
    peer_ca: PeerCaOption = None,
    peer_cert: PeerCertOption = None,
    peer_key: PeerKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stream a generation; accepted, recovered and bonus tokens each have a colour.

    The prompt is plain text, markers of chats included.
    """
    request = generation_pb2.GenerateRequest(
        max_tokens=valid_max_tokens(max_tokens),
        sampling=sampling_of(
            temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
        ),
        stop=stop,
        seed=seed,
        speculation=speculation_of(speculation, drafter),
    )
    request.text = read_prompt(prompt, file)
    options = own_stack(context, address, target, draft, drafter, exact)
    tls = orchestrator_tls(address, over_tls, peer_ca, peer_cert, peer_key)
    run(_generate(address, tls, options, request, as_json))


@app.command()
def chat(
    context: typer.Context,
    address: AddressOption = "",
    target: TargetOption = None,
    draft: DraftOption = None,
    system: Annotated[str | None, typer.Option(help="what the model is told before the chat")] = None,
    max_tokens: MaxTokensOption = 512,
    temperature: TemperatureOption = 0.8,
    top_k: TopKOption = None,
    top_p: TopPOption = None,
    min_p: MinPOption = None,
    repetition_penalty: RepetitionOption = None,
    presence_penalty: PresenceOption = None,
    frequency_penalty: FrequencyOption = None,
    seed: SeedOption = None,
    exact: ExactOption = "auto",
    speculation: SpeculationOption = "auto",
    drafter: DrafterOption = None,
    over_tls: PeerTlsOption = False,
    peer_ca: PeerCaOption = None,
    peer_cert: PeerCertOption = None,
    peer_key: PeerKeyOption = None,
) -> None:
    """Talk with a model that has a chat template; an empty line or Ctrl-D ends it, Ctrl-C an answer.

    Several lines are one message where the first begins with three double quotes and the last ends with them.
    """
    template = generation_pb2.GenerateRequest(
        max_tokens=valid_max_tokens(max_tokens),
        sampling=sampling_of(
            temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
        ),
        seed=seed,
        speculation=speculation_of(speculation, drafter),
    )
    if system is not None:
        template.chat.messages.add(role="system", content=valid_prompt(system))
    options = own_stack(context, address, target, draft, drafter, exact)
    tls = orchestrator_tls(address, over_tls, peer_ca, peer_cert, peer_key)
    run(_chat(address, tls, options, template))


@app.command()
def status(
    address: Annotated[str, typer.Option(callback=refuse_unreachable, help="the orchestrator")] = "127.0.0.1:50050",
    over_tls: PeerTlsOption = False,
    peer_ca: PeerCaOption = None,
    peer_cert: PeerCertOption = None,
    peer_key: PeerKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what an orchestrator is connected to and how it is doing."""
    reply = run(_status(address, orchestrator_tls(address, over_tls, peer_ca, peer_cert, peer_key)))
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
    """Tell whether a draft fits a target, and all in which they differ. Exit code 1 when it does not."""
    found = run(pair_differences(target, draft, peer_tls()))
    problem = next((difference.sentence for difference in found if difference.is_harmful), "")
    if as_json:
        print(json.dumps({"fits": not problem, "reason": problem, "differences": [asdict(each) for each in found]}))
    else:
        print("\n".join(pair_lines(found)))
    sys.exit(CODE_FAILED if problem else 0)


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
    except (KeyboardInterrupt, Interrupted) as error:
        if sys.stdout.isatty():  # the text may have stopped in the middle of a line
            print()
        sys.exit(error.code if isinstance(error, Interrupted) else CODE_INTERRUPTED)


async def _status(address: str, tls: ClientTls | None) -> generation_pb2.GetStatusResponse:
    async with waiting(f"the orchestrator at {address}"):
        return await fetch_status(address, tls)


async def _serve(options: StackOptions) -> None:
    async def use(address: str) -> None:
        announce(f"serving on {address}")
        await asyncio.Event().wait()

    await run_beside(Stack(options, peer_tls()), use)


async def _generate(
    address: str,
    tls: ClientTls | None,
    options: StackOptions | None,
    request: generation_pb2.GenerateRequest,
    as_json: bool,
) -> None:
    async def use(address: str) -> None:
        messages = generate(address, request, tls)
        if as_json:
            async with waiting("the end of the text"):
                answer = await collect(messages)
            print(json.dumps(answer))
        else:
            await show(watched(messages, f"the orchestrator at {address}"), request.text, Console(highlight=False))

    await _run(address, options, use)


async def _chat(
    address: str, tls: ClientTls | None, options: StackOptions | None, template: generation_pb2.GenerateRequest
) -> None:
    messages = list(template.chat.messages)
    console, lines = Console(highlight=False), Lines()

    async def use(address: str) -> None:
        if not (await _status(address, tls)).target.model.has_chat_template:
            raise StartupError("the model has no chat template: use `outrider generate`")
        while said := await _ask(console, lines):
            messages.append(target_pb2.ChatMessage(role="user", content=said))
            request = generation_pb2.GenerateRequest()
            request.CopyFrom(template)
            request.chat.CopyFrom(generation_pb2.ChatPrompt(messages=messages))
            reply = target_pb2.ChatMessage(role="assistant")
            answer = watched(generate(address, request, tls), f"the orchestrator at {address}")
            if await until_interrupted(show_answer(answer, reply, console)) is None:
                console.print()
            if reply.content or reply.reasoning:
                messages.append(reply)
            else:
                # Nothing was answered before it was interrupted, and templates refuse a question after a question.
                messages.pop()

    await _run(address, options, use)


async def _ask(console: Console, lines: Lines) -> str:
    """Return what the user says, empty at the end. Raises StartupError for what is no text."""
    console.print("[bold]> [/bold]", end="")
    try:
        said = await read_message(lines, lambda: console.print("[bold]. [/bold]", end=""))
    except UnicodeDecodeError as error:
        raise StartupError("the prompt is not valid UTF-8") from error
    except OSError as error:
        raise StartupError(f"cannot read stdin: {error.strerror}") from error
    return valid_prompt(said) if said else ""


async def _run(address: str, options: StackOptions | None, use: Callable[[str], Coroutine[Any, Any, None]]) -> None:
    """Call `use` with the address of a running orchestrator, of a stack of our own where options are given."""
    if options is None:
        await use(address)
    else:
        await run_beside(Stack(options, peer_tls()), use)


if __name__ == "__main__":
    main()
