"""Makes the picture of the coloured stream that the README shows, from a real run and the command line's own rendering.

`python -m tools.picture` writes docs/stream.svg with the default pair; flags choose models and what is generated.
"""

import argparse
import asyncio
import io
import re
import shlex
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console

from orchestrator.cli.show import show, summary_line
from orchestrator.stack.bundled import bundled_pair
from orchestrator.stack.client import generate
from orchestrator.stack.stack import Stack, StackOptions
from outrider.v1 import common_pb2, generation_pb2

OUT = Path(__file__).parents[1] / "docs" / "stream.svg"
COLUMNS = 96
# Fonts from elsewhere: a page that shows an SVG as an image does not load them.
_FONT_FACE = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)


async def picture(messages: AsyncIterator[generation_pb2.GenerateResponse], prompt: str, flags: str = "") -> str:
    """Return an SVG of what a terminal shows of an answer, the command that asked for it and the last line included."""
    out = Console(file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor", width=COLUMNS)
    out.print(f"$ outrider generate {shlex.quote(prompt)}{flags}", style="dim", highlight=False)
    summary = generation_pb2.GenerateSummary()

    async def watched() -> AsyncIterator[generation_pb2.GenerateResponse]:
        nonlocal summary
        async for message in messages:
            # The command line writes its last line to another stream.
            if message.HasField("summary"):
                summary = message.summary
            else:
                yield message

    await show(watched(), prompt, out)
    out.print()
    out.print(summary_line(summary))
    return _FONT_FACE.sub("", out.export_svg(title="outrider", unique_id="outrider"))


async def run(options: StackOptions, request: generation_pb2.GenerateRequest) -> str:
    """Start a stack, generate twice, so that nothing of the start is in it, and return the picture of the second."""
    async with Stack(options) as stack:
        await stack.wait_ready()
        async for _ in generate(stack.address, request):
            pass
        temperature = request.sampling.temperature
        flags = f" --temperature {temperature:g} --seed {request.seed}" if temperature else ""
        return await picture(generate(stack.address, request), request.text, flags)


def main() -> None:
    """Make the picture as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--prompt", default="def read_lines(path):")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    pair = (arguments.target, arguments.draft) if arguments.target and arguments.draft else bundled_pair()
    request = generation_pb2.GenerateRequest(
        text=arguments.prompt,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
        sampling=common_pb2.Sampling(temperature=arguments.temperature),
    )
    arguments.out.write_text(asyncio.run(run(StackOptions(*pair), request)) + "\n")
    print(arguments.out)


if __name__ == "__main__":
    main()
