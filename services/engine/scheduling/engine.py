"""The thread that owns the model. Everything else talks to it through `run`, from any event loop."""

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from queue import Empty, Queue
from typing import Any

from services.engine.errors import EngineStoppedError, QueueFullError
from services.engine.runtime.interface import Runtime
from services.engine.scheduling.scheduler import Decode, Scheduler
from services.engine.scheduling.turns import Turns
from services.engine.scheduling.work import Miss, ResultT, Work

_log = logging.getLogger(__name__)


class Engine:
    """Continuous batching over one runtime. `start` it, `run` work from any event loop, `stop` it."""

    def __init__(
        self,
        runtime: Runtime,
        *,
        max_queued: int = 256,
        prompt_rows: int = 0,
        turns: Turns | None = None,
        on_failure: Callable[[str], object] = _log.critical,
    ) -> None:
        """Serve `runtime`: at most `max_queued` waiting works, `prompt_rows` and `turns` as the scheduler takes them.

        `on_failure` is called from the engine's thread, with one sentence, when the engine cannot go on.
        """
        self._runtime = runtime
        self._scheduler = Scheduler(runtime, prompt_rows, turns)
        self._max_queued = max_queued
        self._on_failure = on_failure
        # No SimpleQueue: its `get` waits for ever where its time is over before it begins to wait (CPython 3.11).
        self._inbox: Queue[Work[Any] | str | None] = Queue()
        self._num_unanswered = 0
        self._is_stopping = False
        # Nothing gets into the inbox once stopping has begun, so that the thread's last look at it finds everything.
        self._stopping = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)

    @property
    def num_unanswered(self) -> int:
        """Pieces of work that were handed over and not answered."""
        return self._num_unanswered

    @property
    def num_waiting(self) -> int:
        """Pieces of work that have no slot yet. The thread sees those that come in a decode at its end only."""
        return max(self._scheduler.num_waiting, self._num_unanswered - self._runtime.num_slots)

    @property
    def num_active(self) -> int:
        """Pieces of work that have a slot."""
        return self._scheduler.num_active

    @property
    def num_evictions(self) -> int:
        """Sessions that lost their slot to another one."""
        return self._scheduler.admission.slots.num_evictions

    @property
    def num_held_tokens(self) -> int:
        """Tokens in the caches of sessions that are not over."""
        return self._scheduler.admission.slots.num_held_tokens

    def observe(self, on_decode: Callable[[Decode], object]) -> None:
        """Call `on_decode`, from the engine's thread, with every decode."""
        self._scheduler.on_decode = on_decode

    def start(self) -> None:
        """Let the thread begin to serve. Raises RuntimeError where the system has no room for one."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the decode under way, answer what is left with EngineStoppedError, free the runtime."""
        with self._stopping:
            self._is_stopping = True
        self._inbox.put(None)
        # The system may have had no room for the thread.
        if self._thread.ident is not None:
            self._thread.join()
        self._runtime.close()

    async def run(self, work: Work[ResultT]) -> ResultT | Miss:
        """Do the work and return its result, or what is held instead of its prefix.

        Cancelling the caller cancels the work.

        Raises:
            QueueFullError: too much work is waiting already.
            SlotsTakenError: every slot is needed by others, and the work does not wait for one.
            WorkTimeoutError: its deadline passed.
            DecodeError: the model failed.
            EngineStoppedError: the engine is stopping.
            Exception: whatever the work itself raised.
        """
        num_waiting = self._num_unanswered - self._runtime.num_slots
        if num_waiting >= self._max_queued:
            raise QueueFullError(f"{num_waiting} requests are waiting already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT | Miss | Exception] = loop.create_future()
        work.deliver = lambda answer: loop.call_soon_threadsafe(_resolve, future, answer)
        with self._stopping:
            if self._is_stopping:
                raise _stopped()
            self._inbox.put(work)
        self._num_unanswered += 1
        try:
            answer = await future
        except asyncio.CancelledError:
            work.is_cancelled = True
            raise
        finally:
            self._num_unanswered -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    def release(self, session_id: str) -> None:
        """Let the session's slot go first when another session needs one."""
        self._inbox.put(session_id)

    def _serve(self) -> None:
        try:
            while not self._is_stopping:
                self._receive(self._scheduler.due_s)
                self._scheduler.wait_for_turn()
                self._receive(lambda: 0.0)
                self._scheduler.step()
        except Exception as error:
            _log.exception("the engine failed")
            with self._stopping:
                self._is_stopping = True
            self._on_failure(f"the engine cannot go on: {error}")
        while not self._inbox.empty():
            self._handle(self._inbox.get())
        self._scheduler.end(_stopped())

    def _receive(self, until_s: Callable[[], float]) -> None:
        """Handle what comes in until then, in seconds of `time.perf_counter`; asked again whenever something came."""
        with contextlib.suppress(Empty):
            while not self._is_stopping:
                wait_s = until_s() - time.perf_counter()
                self._handle(self._inbox.get(timeout=None if wait_s == math.inf else max(0.0, wait_s)))

    def _handle(self, item: Work[Any] | str | None) -> None:
        match item:
            case Work() as work:
                self._scheduler.add(work)
            case str(session_id):
                self._scheduler.release(session_id)


def _stopped() -> EngineStoppedError:
    return EngineStoppedError("the engine is stopping")


def _resolve(future: asyncio.Future[ResultT | Miss | Exception], answer: ResultT | Miss | Exception) -> None:
    if not future.done():
        future.set_result(answer)
