"""Whatever callers do to their sessions, over calls and streams: each is answered once, and as the protocol says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from outrider.v1 import common_pb2, draft_pb2
from services.frame.rpc.errors import ServiceError
from services.session.exchange import Exchange
from tests.unit.session.callers import Asked, Entry, Stream, Told, told_by
from tests.unit.session.exchanging import Reply, Request, refuse, request

NAMES = ("a", "b")
SESSIONS = st.sampled_from(NAMES)
# How far an id is from the session's last: far behind, the one before, a retry, the next ones.
STEPS = st.sampled_from([-2, -1, 0, 0, 1, 1, 1, 2])
FAILED = ServiceError(grpc.StatusCode.INTERNAL, "DECODE_FAILED", "it failed")


class ExchangeStates(RuleBasedStateMachine):
    """A few sessions, each asked over unary calls and over streams; their work ends when a rule says so."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda loop, context: self.complaints.append(context))
        self.complaints: list[dict[str, Any]] = []
        self.exchange: Exchange[Request, Reply] = Exchange(self.answer, refuse, lambda session_id: None)
        self.draining = asyncio.Event()
        self.works: dict[str, list[asyncio.Future[Reply]]] = {name: [] for name in NAMES}
        self.num_answers = 0
        self.entries: dict[str, Entry] = {}
        self.calls: list[Asked] = []
        self.streams: list[Stream] = []

    async def answer(self, request: Request) -> Reply:
        work: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.works[request.context.session_id].append(work)
        return await work

    # What callers do.

    @precondition(lambda self: len(self.open_streams()) < 2)
    @rule()
    def open_stream(self) -> None:
        stream = Stream()
        wrap = lambda reply: draft_pb2.ProposeStreamResponse(response=reply)  # noqa: E731
        stream.serving = self.loop.create_task(
            self.exchange.serve(stream, "propose", wrap, self.draining)  # type: ignore[arg-type]
        )
        self.streams.append(stream)
        self.check()

    @rule(asking=st.lists(st.tuples(SESSIONS, STEPS), min_size=1, max_size=4), data=st.data())
    def ask(self, asking: list[tuple[str, int]], data: st.DataObject) -> None:
        for name, step in asking:
            self.begin(name, step, data)
            self.check()

    @rule(name=SESSIONS, data=st.data())
    def ask_as_the_last_one_is_answered(self, name: str, data: st.DataObject) -> None:
        """What has been answered is not superseded, however soon the next request comes."""
        self.finish_work(name)
        self.begin(name, 1, data)
        self.check()

    @rule(name=SESSIONS)
    def call_just_before_the_last_one_is_answered(self, name: str) -> None:
        """What is superseded is not answered, however soon its answer comes."""
        was_running = self.is_running(name)
        self.call(name, 1)
        if was_running:
            self.works[name][-1].set_result(Reply(held_length=1))
        self.check()

    @precondition(lambda self: self.waiting_calls())
    @rule(data=st.data(), retries=st.booleans())
    def vanish_from_a_call(self, data: st.DataObject, retries: bool) -> None:
        name, asked = data.draw(st.sampled_from(self.waiting_calls()))
        assert asked.call is not None
        asked.call.cancel()
        self.leave(asked)
        if retries:
            self.call(name, 0)
        self.check()

    @precondition(lambda self: self.open_streams())
    @rule(data=st.data(), vanishes=st.booleans())
    def break_a_stream(self, data: st.DataObject, vanishes: bool) -> None:
        """Vanish from it, or send a message that is none."""
        stream = data.draw(st.sampled_from(self.open_streams()))
        if vanishes:
            stream.serving.cancel()
        else:
            stream.send()
        self.settle()
        assert stream.serving.cancelled() == vanishes
        assert vanishes or stream.serving.exception().reason == "INVALID_REQUEST"
        for asked in stream.asked:
            self.leave(asked)
        self.streams.remove(stream)
        self.check()

    @precondition(lambda self: self.open_streams())
    @rule(data=st.data(), step=STEPS)
    def cancel(self, data: st.DataObject, step: int) -> None:
        stream = data.draw(st.sampled_from(self.open_streams()))
        entry = self.entries.get(stream.session)
        request_id = max(0, (entry.request_id if entry else 3) + step)
        stream.send(cancel=common_pb2.CancelMessage(request_id=request_id))
        if entry and entry.is_running and entry.request_id == request_id:
            entry.end("CANCELLED", remembered=True)
        self.check()

    @precondition(lambda self: self.open_streams())
    @rule(data=st.data(), releases=st.booleans())
    def close(self, data: st.DataObject, releases: bool) -> None:
        stream = data.draw(st.sampled_from(self.open_streams()))
        if releases:
            stream.send(release=common_pb2.ReleaseMessage())
            if entry := self.entries.pop(stream.session, None):
                entry.end("CANCELLED")
        stream.end()
        self.check()

    @precondition(lambda self: self.streams)
    @rule(data=st.data())
    def read_or_do_not_read(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self.streams))
        if stream.reads.is_set():
            stream.reads.clear()
        else:
            stream.reads.set()
        self.check()

    # What the service does.

    @rule(name=SESSIONS)
    def finish(self, name: str) -> None:
        self.finish_work(name)
        self.check()

    @rule(name=SESSIONS)
    def fail(self, name: str) -> None:
        if self.is_running(name):
            self.works[name][-1].set_exception(FAILED)
            self.entries[name].end("DECODE_FAILED")
        self.check()

    @rule()
    def drain(self) -> None:
        """Streams are not read any more, and end when everything on them is answered. Later ones are another's."""
        self.draining.set()
        for stream in self.streams:
            stream.is_closed = True
        self.check()
        self.draining = asyncio.Event()

    # What is expected of them.

    def begin(self, name: str, step: int, data: st.DataObject) -> None:
        """Ask on any carrier."""
        stream: Stream | None = data.draw(st.sampled_from([None, *self.open_streams()]))
        if stream is None:
            self.call(name, step)
            return
        stream.session = stream.session or name
        asked = Asked(self.next_id(name, step), stream=stream)
        stream.asked.append(asked)
        stream.send(propose=request(asked.request_id, name))
        if name == stream.session:
            self.enter(name, asked)
        else:
            asked.told = "INVALID_SESSION"

    def call(self, name: str, step: int) -> None:
        """Ask on a unary call."""
        asked = Asked(self.next_id(name, step))
        asked.call = self.loop.create_task(self.exchange.answer(request(asked.request_id, name)))
        self.calls.append(asked)
        self.enter(name, asked)

    def next_id(self, name: str, step: int) -> int:
        entry = self.entries.get(name)
        return max(0, (entry.request_id if entry else 3) + step)

    def enter(self, name: str, asked: Asked) -> None:
        entry = self.entries.get(name)
        if entry is not None and asked.request_id < entry.request_id:
            asked.told = "SUPERSEDED"
        elif entry is not None and asked.request_id == entry.request_id and entry.told is not None:
            asked.told = entry.told
        elif entry is not None and asked.request_id == entry.request_id and entry.is_running:
            entry.waiting.append(asked)
        else:
            if entry is not None:
                entry.end("SUPERSEDED")
            self.entries[name] = Entry(asked.request_id, waiting=[asked])

    def leave(self, asked: Asked) -> None:
        """Work that nobody waits for any more is given up."""
        for entry in self.entries.values():
            if asked in entry.waiting:
                entry.waiting.remove(asked)
                entry.is_running = bool(entry.waiting)

    def finish_work(self, name: str) -> None:
        if self.is_running(name):
            self.num_answers += 1
            entry = self.entries[name]
            self.works[name][-1].set_result(Reply(request_id=entry.request_id, held_length=self.num_answers))
            entry.end(self.num_answers, remembered=True)

    def is_running(self, name: str) -> bool:
        return name in self.entries and self.entries[name].is_running

    def open_streams(self) -> Sequence[Any]:
        return [stream for stream in self.streams if not stream.is_closed]

    def waiting_calls(self) -> Sequence[tuple[str, Asked]]:
        return [(name, asked) for name, entry in self.entries.items() for asked in entry.waiting if asked.call]

    # What must always hold, once the loop has come to rest.

    def settle(self) -> None:
        async def rest() -> None:
            for _ in range(20):
                await asyncio.sleep(0)

        self.loop.run_until_complete(rest())

    def check(self) -> None:
        self.settle()
        assert self.complaints == []
        for name, works in self.works.items():
            assert [not work.done() for work in works].count(True) == self.is_running(name)
            assert all(work.done() for work in works[:-1]), "only the last one is under way"
        for asked in self.calls:
            assert asked.call is not None
            assert _told(asked.call) == asked.told
        for stream in list(self.streams):
            self.check_stream(stream)

    def check_stream(self, stream: Stream) -> None:
        assert stream.serving is not None
        told = sorted((asked.request_id, str(asked.told)) for asked in stream.asked if asked.told is not None)
        received = sorted((request_id, str(told)) for request_id, told in stream.received)
        if stream.reads.is_set():
            assert received == told
        has_said_all = len(received) == len(stream.asked)
        assert stream.serving.done() == (stream.is_closed and has_said_all)
        if stream.serving.done():
            stream.serving.result()
            self.streams.remove(stream)

    def teardown(self) -> None:
        for task in [asked.call for asked in self.calls] + [stream.serving for stream in self.streams]:
            assert task is not None
            task.cancel()
        self.settle()
        assert not asyncio.all_tasks(self.loop), "work that nobody waits for has ended"
        self.loop.close()
        assert self.complaints == []


def _told(call: asyncio.Task[Reply]) -> Told | None:
    """What a call was answered; None while it waits, and where its caller has vanished."""
    if not call.done() or call.cancelled():
        return None
    error = call.exception()
    if isinstance(error, ServiceError):
        return error.reason
    return told_by(call.result())


ExchangeStates.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestExchangeStates = ExchangeStates.TestCase
