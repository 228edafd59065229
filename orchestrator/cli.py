"""The command line: `outrider serve` and `outrider generate`."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console
from typer import TyperException

from orchestrator.bundled import bundled_pair
from orchestrator.client import collect, generate, show
from orchestrator.stack import RefusedError, Stack, StackOptions
from outrider.v1 import common_pb2, generation_pb2
from services.frame.errors import ServiceError
from services.frame.logging import configure_logging
from services.frame.startup import CODE_REFUSED, StartupError, refuse

CODE_FAILED = 1
CODE_INTERRUPTED = 130
_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
)

app = typer.Typer(help="Speculative decoding as services.", add_completion=False, rich_markup_mode=None)

TargetOption = Annotated[
    Path | None, typer.Option("--target", help="GGUF file of the target; the bundled one if absent")
]
ExactOption = Annotated[
    str, typer.Option(help="auto, on or off: whether the text is the same to the bit whatever else is served")
]
DraftOption = Annotated[Path | None, typer.Option("--draft", help="GGUF file of the draft; plain decoding if absent")]


@app.command()
def serve(
    target: TargetOption = None,
    draft: DraftOption = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to listen on; 0 takes a free one")] = 50050,
    exact: ExactOption = "auto",
    log_level: Annotated[str, typer.Option(help="least severe messages that are logged")] = "info",
) -> None:
    """Run target, draft and orchestrator as three processes on loopback, one public port. Ctrl-C stops all."""
    configure_logging("info", "text", "outrider")
    asyncio.run(_serve(_options(target, draft, exact, host=host, port=port, log_level=log_level)))


@app.command(name="generate")
def generate_command(
    prompt: Annotated[str, typer.Argument(help="text to go on with")],
    address: Annotated[str, typer.Option(help="a running orchestrator; a stack of our own if absent")] = "",
    target: TargetOption = None,
    draft: DraftOption = None,
    max_tokens: Annotated[int, typer.Option(help="most tokens to generate")] = 128,
    temperature: Annotated[float, typer.Option(help="0 takes the most probable token")] = 0.0,
    seed: Annotated[int | None, typer.Option(min=0, help="the same seed gives the same text; drawn if absent")] = None,
    exact: ExactOption = "auto",
    speculation: Annotated[str, typer.Option(help="auto, off, or a fixed number of draft tokens")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Stream a generation; accepted, recovered and bonus tokens each have a colour."""
    request = generation_pb2.GenerateRequest(
        text=prompt,
        max_tokens=max_tokens,
        sampling=common_pb2.Sampling(temperature=temperature),
        seed=seed,
        speculation=_speculation(speculation),
    )
    options = None if address else _options(target, draft, exact)
    asyncio.run(_generate(address, options, request, as_json))


def main() -> None:
    """Run the command line. Bad use ends with one sentence and exit code 2, failures with 1."""
    try:
        sys.exit(app(standalone_mode=False))
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
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(CODE_INTERRUPTED)


async def _serve(options: StackOptions) -> None:
    async with Stack(options) as stack:
        await stack.wait_ready()
        print(f"serving on {stack.address}", flush=True)
        await stack.keep()


async def _generate(
    address: str, options: StackOptions | None, request: generation_pb2.GenerateRequest, as_json: bool
) -> None:
    async with AsyncExitStack() as resources:
        if options is not None:
            stack = await resources.enter_async_context(Stack(options))
            with Console(stderr=True).status("loading the models"):
                await stack.wait_ready()
            address = stack.address
        messages = generate(address, request)
        if as_json:
            print(json.dumps(await collect(messages)))
        else:
            await show(messages, request.text, Console(highlight=False))


def _options(
    target: Path | None,
    draft: Path | None,
    exact: str,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    log_level: str = "warning",
) -> StackOptions:
    if target is None:
        if draft is not None:
            raise StartupError("--draft needs --target: the two must share a tokenizer")
        target, draft = bundled_pair()
    if exact not in ("auto", "on", "off"):
        raise StartupError(f"--exact is auto, on or off, not {exact!r}")
    for path in (target, draft):
        if path is not None and not path.is_file():
            raise StartupError(f"there is no model file {path}")
    return StackOptions(target, draft, host, port, log_level, target_flags=("--exact", exact))


def _speculation(text: str) -> generation_pb2.Speculation:
    if text == "auto":
        return generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_AUTO)
    if text in ("off", "0"):
        return generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_OFF)
    if text.isdecimal():
        return generation_pb2.Speculation(mode=generation_pb2.SPECULATION_MODE_FIXED, num_draft_tokens=int(text))
    raise StartupError(f"--speculation is auto, off or a number, not {text!r}")


if __name__ == "__main__":
    main()
