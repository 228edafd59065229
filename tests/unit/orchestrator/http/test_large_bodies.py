"""Large bodies are read elsewhere: what they mean and why they are refused is the same, and the others go on."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from orchestrator.http.exchange import large_bodies
from tests.unit.orchestrator.http.scripted_face import Face, face
from tests.waiting import PATIENCE_S, soon

PATHS = ("/v1/completions", "/v1/chat/completions", "/v1/messages", "/v1/responses", "/detokenize")
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module", autouse=True)
def _end_of_the_process() -> Iterator[None]:
    yield
    large_bodies._readers().shutdown()
    large_bodies._readers.cache_clear()


@pytest.fixture
def _all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_bodies, "LARGE", 0)


async def process_id() -> int:
    return await asyncio.wrap_future(large_bodies._readers().submit(os.getpid))


async def answer_of(made: Face, path: str, body: bytes) -> tuple[int, Any]:
    answer = await made.client.post(path, content=body, headers={"content-type": "application/json"})
    return answer.status_code, answer.json()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"{", id="cut off"),
        pytest.param(b"[" * 300 + b"]" * 300, id="deep"),
        pytest.param(b'{"temperature": NaN}', id="NaN"),
        pytest.param(b'{"prompt": "\\ud800"}', id="half a character"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b"{}", id="nothing"),
        pytest.param(json.dumps({"prompt": "a", "messages": HELLO, "no_such": 1}).encode(), id="an unknown field"),
        pytest.param(json.dumps({"prompt": [1, "a"], "messages": [{"role": 1}]}).encode(), id="of several kinds"),
        pytest.param(json.dumps({"messages": HELLO, "functions": [1], "tokens": [-1]}).encode(), id="unsupported"),
        pytest.param(json.dumps({str(number): number for number in range(200)}).encode(), id="many fields"),
    ],
)
async def test_what_is_refused_is_refused_in_the_same_words(
    monkeypatch: pytest.MonkeyPatch, path: str, body: bytes
) -> None:
    async with face() as made:
        expected = await answer_of(made, path, body)
        monkeypatch.setattr(large_bodies, "LARGE", 0)
        assert await answer_of(made, path, body) == expected
        assert expected[0] == 400
        assert not made.service.requests


@pytest.mark.usefixtures("_all_are_large")
async def test_what_is_asked_is_the_same() -> None:
    async with face() as made:
        for prompt in ("é", ["a", "b"], [1, 2], [[1, 2], [3]]):
            assert (await made.post("/v1/completions", {"prompt": prompt})).status_code == 200
        assert (await made.post("/v1/chat/completions", {"messages": HELLO})).status_code == 200
        asked = [request.text or list(request.tokens.tokens) for request in made.service.requests[:-1]]
    assert asked == ["é", "a", "b", [1, 2], [1, 2], [3]]
    assert made.service.requests[-1].chat.messages[0].content == "Hello"


async def test_only_large_ones_are_read_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    async def note(body: bytes, kind: Any) -> Any:
        read.append(len(body))
        return kind.model_validate_json(body)

    monkeypatch.setattr(large_bodies, "read_large", note)
    async with face() as made:
        for num in (10, large_bodies.LARGE):
            assert (await made.post("/v1/completions", {"prompt": "a" * num})).status_code == 200
    (num_bytes,) = read
    assert num_bytes > large_bodies.LARGE


async def test_others_are_answered_while_a_large_body_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, may_end, parse = threading.Event(), threading.Event(), large_bodies.parse

    def slow(body: bytes) -> object:
        if len(body) > large_bodies.LARGE:
            has_begun.set()
            assert may_end.wait(PATIENCE_S)
        return parse(body)

    monkeypatch.setattr(large_bodies, "parse", slow)
    with ThreadPoolExecutor() as threads:
        # What is patched here is not patched in another process.
        monkeypatch.setattr(large_bodies, "_readers", lambda: threads)
        async with face() as made:
            reading = asyncio.create_task(made.post("/v1/completions", {"prompt": "a" * large_bodies.LARGE}))
            await soon(has_begun.is_set)
            assert (await made.post("/v1/completions", {"prompt": "a"})).status_code == 200
            assert not reading.done()
            may_end.set()
            assert (await reading).status_code == 200


@pytest.mark.usefixtures("_all_are_large")
async def test_it_is_another_process_which_ends_by_itself_and_is_replaced() -> None:
    async with face() as made:
        assert (await made.post("/v1/completions", {"prompt": "a"})).status_code == 200
        first = await process_id()
        assert first != os.getpid()
        os.kill(first, signal.SIGINT)
        assert await process_id() == first, "Ctrl-C is for the orchestrator, which ends it"
        os.kill(first, signal.SIGKILL)
        await soon(lambda: not psutil.pid_exists(first))
        for _ in range(3):
            assert (await made.post("/v1/completions", {"prompt": "a"})).status_code == 200
        assert await process_id() != first


@pytest.mark.usefixtures("_all_are_large")
@pytest.mark.parametrize("error", [OSError("no room"), ImportError("no semaphores"), NotImplementedError("too few")])
async def test_a_body_is_read_where_no_process_can_be_started(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    large_bodies._readers.cache_clear()
    monkeypatch.setattr(large_bodies, "ProcessPoolExecutor", refuse)
    async with face() as made:
        assert (await made.post("/v1/completions", {"prompt": "a"})).status_code == 200
        answer = await made.post("/v1/completions", {"prompt": "a", "no_such": 1})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "no_such")


async def test_it_is_not_left_behind_by_an_orchestrator_that_is_killed() -> None:
    program = (
        "import os; from orchestrator.http.exchange.large_bodies import _readers;"
        "print(_readers().submit(os.getpid).result(), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as parent:
        assert parent.stdout is not None
        reader = psutil.Process(int(await asyncio.to_thread(parent.stdout.readline)))
        parent.kill()
    await asyncio.to_thread(psutil.wait_procs, [reader], PATIENCE_S)
    assert not reader.is_running()
