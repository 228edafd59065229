"""A server that answers HTTP requests with bytes that were written down, part by part."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Scripted:
    """Where it listens, and what it was asked."""

    url: str = ""
    asked: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def answering(*parts: bytes) -> AsyncIterator[Scripted]:
    """Answer every request with these parts, each written when the one before it was."""
    scripted = Scripted()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        scripted.asked.append(head + await reader.readexactly(length))
        for part in parts:
            writer.write(part)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()
        await server.wait_closed()


OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def pieces(*bodies: bytes) -> list[bytes]:
    """Each body as a piece of a chunked answer, and the last piece."""
    return [b"%x\r\n%s\r\n" % (len(body), body) for body in (*bodies, b"")]


def events(*lines: str) -> Sequence[bytes]:
    """Each JSON text as an event of a stream."""
    return [f"data: {line}\n\n".encode() for line in lines]
