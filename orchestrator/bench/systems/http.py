"""As much of HTTP as a stream of events needs.

A client library takes a tenth of a core at 200 events a second, which on a small machine is taken from the server that
is measured.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

# What comes within this is one chunk: a server that drafts sends every token of a draft as an event of its own.
_TOGETHER_S = 0.001
_MOST_TOLD = 300
_PORTS = {"http": 80, "https": 443}


class Refused(ConnectionError):
    """The server answered with another status than OK. The text is what it said."""


async def post_events(
    url: str, question: Mapping[str, Any], headers: Mapping[str, str] | None = None
) -> AsyncIterator[list[dict[str, Any]]]:
    """Ask with JSON and give the events of the answer as they come: those that came together, in one list.

    Raises ConnectionError and Refused.
    """
    rest = b""
    async for data in request("POST", url, json.dumps(question).encode(), headers):
        *lines, rest = (rest + data).split(b"\n")
        told = [line.removeprefix(b"data:").strip() for line in lines if line.startswith(b"data:")]
        try:
            events = [json.loads(line) for line in told if line != b"[DONE]"]
        except ValueError as error:
            raise ConnectionError(f"what {url} answers is no stream of JSON events") from error
        if problem := next((event["error"] for event in events if "error" in event), None):
            raise Refused(f"{url} broke off: {problem}")
        if events:
            yield events


async def request(
    method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> AsyncIterator[bytes]:
    """Ask on a connection of its own and give the body of the answer as it arrives. Raises ConnectionError and Refused.

    What arrives within a millisecond is given at once.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    reader, writer = await asyncio.open_connection(host, port, ssl=parts.scheme == "https" or None)
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        given = {
            **{"Host": parts.netloc.rpartition("@")[2], "Connection": "close", "Content-Type": "application/json"},
            **{"Content-Length": str(len(body)), "Accept": "*/*", **(headers or {})},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        status, has_chunks = await _read_head(reader)
        received = _pieces(reader) if has_chunks else _whole(reader)
        if status != 200:  # OK
            told = b"".join([part async for part in received])[:_MOST_TOLD].decode(errors="replace")
            raise Refused(f"{method} {path} was answered with status {status}: {told}")
        async for part in received:
            yield part
    except (asyncio.IncompleteReadError, ValueError) as error:
        raise ConnectionError(f"what {url} answers is no HTTP, or ends too early") from error
    finally:
        writer.close()


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """Return the status, and whether the body comes in pieces with their sizes. Raises ValueError for what is none."""
    _, _, status = (await reader.readline()).partition(b" ")
    has_chunks = False
    while (line := await reader.readline()).strip():
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"transfer-encoding":
            has_chunks = value.strip().lower() == b"chunked"
    return int(status[:3]), has_chunks


async def _whole(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while first := await reader.read(1):
        await asyncio.sleep(_TOGETHER_S)
        yield first + await reader.read(1 << 16)


async def _pieces(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Give the pieces of a body without their sizes, those that came together at once. Raises IncompleteReadError."""
    unread = b""
    async for data in _whole(reader):
        unread += data
        body, unread, is_end = _without_sizes(unread)
        if body:
            yield body
        if is_end:
            return
    raise asyncio.IncompleteReadError(unread, None)


def _without_sizes(data: bytes) -> tuple[bytes, bytes, bool]:
    """Return what whole pieces hold, what is left over, and whether the last one was among them. Raises ValueError."""
    found: list[bytes] = []
    while (end := data.find(b"\r\n")) >= 0:
        size = int(data[:end].partition(b";")[0], 16)
        start = end + 2
        if size == 0:
            return b"".join(found), b"", True
        if len(data) < start + size + 2:
            break
        found.append(data[start : start + size])
        data = data[start + size + 2 :]
    return b"".join(found), data, False
