"""What `outrider generate` and `outrider chat` do: an orchestrator is asked, and its answers are shown as they come."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from rich.console import Console

from orchestrator.cli.beside import run_beside
from orchestrator.cli.interrupts import until_interrupted
from orchestrator.cli.options import stack_credentials
from orchestrator.cli.progress import waiting, watched
from orchestrator.cli.show import collect, show, show_answer
from orchestrator.cli.stdin import Lines, read_message
from orchestrator.cli.texts import valid_text
from orchestrator.stack.client import fetch_status, generate
from orchestrator.stack.stack import Stack, StackOptions
from outrider.v1 import generation_pb2, target_pb2
from services.frame.program.output import say
from services.frame.program.startup import StartupError
from services.frame.rpc.channel import Credentials
from services.frame.rpc.errors import ServiceError

_LOOK_AGAIN_S = 0.1


async def current_status(address: str, credentials: Credentials) -> generation_pb2.GetStatusResponse:
    """Ask a running orchestrator how it is doing. Raises ServiceError."""
    async with waiting(f"the orchestrator at {address}"):
        return await fetch_status(address, credentials)


async def stream_text(
    address: str,
    credentials: Credentials,
    options: StackOptions | None,
    request: generation_pb2.GenerateRequest,
    as_json: bool,
) -> None:
    """Print the text that goes on with a prompt. Raises ServiceError, StartupError, RefusedError and CrashedError."""

    async def use(address: str) -> None:
        messages = generate(address, request, credentials)
        if as_json:
            async with waiting("the end of the text"):
                answer = await collect(messages)
            print(json.dumps(answer))
        else:
            await show(watched(messages, f"the orchestrator at {address}"), request.text, Console(highlight=False))

    await _run(address, options, use, request.model)


async def hold_chat(
    address: str, credentials: Credentials, options: StackOptions | None, template: generation_pb2.GenerateRequest
) -> None:
    """Answer what the user says until there is no more of it; `template` is what every request has. Raises the same."""
    messages = list(template.chat.messages)
    console, lines = Console(highlight=False), Lines()

    async def use(address: str) -> None:
        model = (await current_status(address, credentials)).target.model
        # The target knows the named ones.
        if not (model.has_chat_template or template.chat.template_name):
            raise StartupError("the model has no chat template: use `outrider generate`")
        while said := await ask(console, lines):
            messages.append(target_pb2.ChatMessage(role="user", content=said))
            request = generation_pb2.GenerateRequest()
            request.CopyFrom(template)
            del request.chat.messages[:]
            request.chat.messages.extend(messages)
            reply = target_pb2.ChatMessage(role="assistant")
            await _show_answer(
                watched(generate(address, request, credentials), f"the orchestrator at {address}"), reply, console
            )
            if reply.content or reply.reasoning:
                messages.append(reply)
            else:
                # Nothing was answered, and templates refuse a question after a question.
                messages.pop()
        if lines.has_ended:  # the line of the prompt has not
            console.print()

    await _run(address, options, use, template.model)


async def ask(console: Console, lines: Lines) -> str:
    """Return what the user says, empty at the end. Raises StartupError for what is no text."""
    console.print("[bold]> [/bold]", end="")
    try:
        said = await read_message(lines, lambda: console.print("[bold]. [/bold]", end=""))
    except UnicodeDecodeError as error:
        raise StartupError("the prompt is not valid UTF-8") from error
    except OSError as error:
        raise StartupError(f"cannot read stdin: {error.strerror}") from error
    return valid_text(said, "the prompt") if said else ""


async def _show_answer(
    answer: AsyncIterator[generation_pb2.GenerateResponse], reply: target_pb2.ChatMessage, console: Console
) -> None:
    """Print an answer up to its end, to Ctrl-C or to an error. Raises ServiceError where nobody is there to go on."""
    try:
        if await until_interrupted(show_answer(answer, reply, console)) is None:
            console.print()
    except ServiceError as error:
        if not sys.stdin.isatty():
            raise
        if reply.content or reply.reasoning:
            console.print()
        say("outrider", error.message)


async def _run(
    address: str, options: StackOptions | None, use: Callable[[str], Coroutine[Any, Any, None]], model: str
) -> None:
    """Call `use` with the address of a running orchestrator, of a stack of our own where options are given.

    Such a stack serves before it has its draft, which is waited for where it may be the `model` that is to answer.
    """
    if options is None:
        await use(address)
        return

    async def use_own(address: str) -> None:
        if options.draft is not None and model not in ("", "target"):
            async with waiting("the draft model"):
                await _until_draft_known(address)
        await use(address)

    await run_beside(Stack(options, stack_credentials()), use_own)


async def _until_draft_known(address: str) -> None:
    """Return once the orchestrator has found its draft, whether it can use it or not."""
    while not any(draft.HasField("model") for draft in (await fetch_status(address)).drafts):
        await asyncio.sleep(_LOOK_AGAIN_S)
