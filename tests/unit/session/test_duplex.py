"""The answers of one stream: sent in turn, and not waited for once the stream is broken."""

import asyncio
from typing import Any

import pytest

from services.session.duplex import MAX_UNSENT_ANSWERS, Outgoing
from tests.waiting import PATIENCE_S


class Reader:
    """Takes messages as a stream's context does, and breaks after some."""

    def __init__(self, breaks_after: int) -> None:
        self.taken: list[str] = []
        self._breaks_after = breaks_after

    async def write(self, message: str) -> None:
        if len(self.taken) == self._breaks_after:
            raise asyncio.InvalidStateError("the client went away")
        self.taken.append(message)


async def sent(reader: Any, num_answers: int) -> Outgoing[int]:
    outgoing: Outgoing[int] = Outgoing(reader, str)
    for answer in range(num_answers):
        await outgoing.reserve()
        outgoing.put(answer)
    async with asyncio.timeout(PATIENCE_S):
        await outgoing.all_sent()
    return outgoing


async def test_answers_keep_their_order_however_many() -> None:
    reader = Reader(breaks_after=1000)
    outgoing = await sent(reader, 3 * MAX_UNSENT_ANSWERS)
    assert reader.taken == [str(answer) for answer in range(3 * MAX_UNSENT_ANSWERS)]
    outgoing.close()


@pytest.mark.parametrize("breaks_after", [0, 2])
async def test_a_broken_stream_is_not_waited_for(breaks_after: int) -> None:
    reader = Reader(breaks_after)
    outgoing = await sent(reader, 4)
    assert len(reader.taken) == breaks_after
    outgoing.close()
