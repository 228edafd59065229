"""A headless Chromium, driven by its DevTools protocol: https://chromedevtools.github.io/devtools-protocol/

It speaks over two pipes, messages of JSON with a zero byte between, so that nothing else is needed for it.
"""

import asyncio
import base64
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)
# It takes the descriptors 3 and 4 for its pipes, which here may be any. Those from 10 on are in nobody's way.
_START = """
import fcntl, os, sys
reading, writing = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(reading, 3), os.dup2(writing, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_MOST_BYTES = 64 << 20
# Nothing takes so long unless something is broken, on a busy machine too.
PATIENCE_S = 60.0


def chromium() -> str | None:
    """Where Chromium is, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class PageError(Exception):
    """JavaScript of a page has thrown."""


@dataclass
class Page:
    """One page of a browser. `problems` are errors that it has thrown, and what its console calls one."""

    _writer: asyncio.StreamWriter
    session: str = ""
    problems: list[str] = field(default_factory=list)
    # What it has asked for: `url`, `headers` and what else the protocol tells.
    requests: list[dict[str, Any]] = field(default_factory=list)
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    async def call(self, method: str, *, patience_s: float = PATIENCE_S, **parameters: Any) -> Any:
        """Call a method of the protocol. Raises TimeoutError."""
        number = len(self._answers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self._writer.write(json.dumps(message).encode() + b"\0")
        async with asyncio.timeout(patience_s):
            return await self._answers[number]

    async def open(self, url: str) -> None:
        """Load a page."""
        await self.call("Page.navigate", url=url)
        await self.until("document.readyState === 'complete'")

    async def evaluate(self, expression: str, patience_s: float = PATIENCE_S) -> Any:
        """Return what an expression comes to, its promise's result where it is one. Raises PageError."""
        asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        told = await self.call("Runtime.evaluate", patience_s=patience_s, **asked)
        if "exceptionDetails" in told:
            raise PageError(_sentence_of(told["exceptionDetails"]))
        return told["result"].get("value")

    async def until(self, condition: str, patience_s: float = PATIENCE_S) -> None:
        """Return once an expression is true. Raises TimeoutError when it never is."""
        watching = f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 5); look() }})"
        try:
            await self.evaluate(watching, patience_s)
        except TimeoutError:
            raise TimeoutError(f"it never came to {condition}; the page told {self.problems}") from None

    async def press(self, key: str, code: int) -> None:
        """Press a key, by its name and its code."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    async def hover(self, selector: str) -> None:
        """Move the mouse onto an element."""
        place = await self.evaluate(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getClientRects()[0];"
            " return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])

    async def resize(self, width: int, height: int, *, is_phone: bool = False) -> None:
        """Give the window another size, in CSS pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=is_phone,
        )

    async def prefer(self, scheme: str) -> None:
        """Prefer dark or light colours."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    async def picture(self, path: Path) -> None:
        """Write a PNG of what the window shows."""
        told = await self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(told["data"]))

    def receive(self, message: dict[str, Any]) -> None:
        """Take a message of the browser."""
        if (number := message.get("id")) is not None:
            answer = self._answers[number]
            if not answer.done():
                answer.set_result(message.get("result", {}))
            return
        parameters = message.get("params", {})
        match message["method"]:
            case "Runtime.exceptionThrown":
                self.problems.append(_sentence_of(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.problems.append(parameters["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"])


@asynccontextmanager
async def browsing(profile: Path) -> AsyncIterator[Page]:
    """A page of a browser whose files are below `profile`, an empty folder."""
    program = chromium()
    assert program is not None
    their_reading, our_writing = os.pipe()
    our_reading, their_writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _START, str(their_reading), str(their_writing)),
        *(program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"),
        pass_fds=(their_reading, their_writing),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=os.environ | {"HOME": str(profile)},
    )
    os.close(their_reading)
    os.close(their_writing)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_MOST_BYTES)
    reading, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(our_reading, "rb")
    )
    writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(our_writing, "wb"))
    page = Page(asyncio.StreamWriter(writing, protocol, None, loop))
    listening = asyncio.create_task(_listen(reader, page))
    try:
        (target,) = [each for each in (await page.call("Target.getTargets"))["targetInfos"] if each["type"] == "page"]
        attached = await page.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        # As a window in front of a person has it: without it nothing is told of what gets the focus.
        await page.call("Emulation.setFocusEmulationEnabled", enabled=True)
        yield page
    finally:
        page.session = ""
        await page.call("Browser.close")
        await process.wait()
        listening.cancel()
        await asyncio.wait([listening])
        reading.close()
        writing.close()


async def _listen(reader: asyncio.StreamReader, page: Page) -> None:
    while True:
        try:
            message = await reader.readuntil(b"\0")
        except asyncio.IncompleteReadError:
            return
        page.receive(json.loads(message[:-1]))


def _sentence_of(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details.get("text"))
