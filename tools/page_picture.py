"""Makes the picture of the page that the README shows, from a real run in Chromium.

`python -m tools.page_picture` writes docs/page.png with the default pair; flags choose models and what is generated.
"""

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from orchestrator.cli.http_address import http_address
from orchestrator.stack.bundled import bundled_pair
from orchestrator.stack.stack import Stack, StackOptions
from tools.browser import Page, browsing

OUT = Path(__file__).parents[1] / "docs" / "page.png"
WIDTH, HEIGHT = 1200, 860
_PATIENCE_S = 300.0
_IS_FREE = "!document.querySelector('#go').disabled"


async def answer(page: Page, fields: dict[str, str | int | float]) -> None:
    """Ask for an answer with these fields of the form, and wait for its end."""
    for name, value in fields.items():
        await page.evaluate(f"document.querySelector('#ask').elements[{name!r}].value = {json.dumps(value)}")
    await page.evaluate("document.querySelector('#clear').click()")
    await page.evaluate("document.querySelector('#ask').requestSubmit()")
    await page.until(f"{_IS_FREE} && document.querySelector('.note')?.textContent", _PATIENCE_S)


async def picture(url: str, fields: dict[str, str | int | float], scheme: str, out: Path) -> None:
    """Write a picture of an answer that is compared with plain decoding, one of its tokens pointed at."""
    with tempfile.TemporaryDirectory() as profile:
        async with browsing(Path(profile)) as page:
            await page.resize(WIDTH, HEIGHT)
            await page.prefer(scheme)
            await page.open(url)
            await page.until(_IS_FREE)
            # Twice, so that nothing of the start is in it.
            await answer(page, fields)
            await answer(page, fields)
            await page.evaluate("document.querySelector('#compare').click()")
            await page.until(_IS_FREE, _PATIENCE_S)
            await page.evaluate("document.querySelector('.again').open = false")
            await page.evaluate("document.querySelector('#answers').scrollTop = 0")
            await page.evaluate("document.querySelector('.tokens .token.recovered').focus()")
            await page.picture(out)


async def run(
    options: StackOptions, address: str, fields: dict[str, str | int | float], scheme: str, out: Path
) -> None:
    """Start a stack and write the picture."""
    async with Stack(options) as stack:
        await stack.wait_ready()
        await picture(f"http://{address}/", fields, scheme, out)


def main() -> None:
    """Make the picture as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--target", type=Path)
    parser.add_argument("--draft", type=Path)
    parser.add_argument("--prompt", default="def read_lines(path):")
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scheme", choices=("dark", "light"), default="dark")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    target, draft = (arguments.target, arguments.draft) if arguments.target and arguments.draft else bundled_pair()
    address = http_address("127.0.0.1:0")
    options = StackOptions(target, draft, orchestrator_flags=("--http", address), target_flags=("--exact", "on"))
    fields = {
        "prompt": arguments.prompt,
        "max_tokens": arguments.max_tokens,
        "temperature": arguments.temperature,
        "seed": arguments.seed,
    }
    asyncio.run(run(options, address, fields, arguments.scheme, arguments.out))
    print(arguments.out)


if __name__ == "__main__":
    main()
