"""Peers, as a server that says what was written down: llama-server, and what speaks OpenAI's protocol."""

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from orchestrator.bench.load.prompts import Prompt
from orchestrator.bench.load.streams import Chunk, Stream
from orchestrator.bench.systems.http import Refused, post_events
from orchestrator.bench.systems.llama_server import LlamaServer, parse_setting, server_flags
from orchestrator.bench.systems.openai_server import OpenAiServer, scaled
from orchestrator.bench.systems.system import Models, Setting
from tests.unit.orchestrator.bench.scripted_http import CHUNKED, OK, answering, events, pieces

TEXT, CHAT = Prompt("mine", "go on"), Prompt("mine", messages=(("user", "hello"),))
PLAIN = Setting("plain")
MODELS = Models(Path("target.gguf"), Path("draft.gguf"), slots=4, context=512, threads=2)


def body_of(asked: bytes) -> dict[str, object]:
    body: dict[str, object] = json.loads(asked.partition(b"\r\n\r\n")[2])
    return body


async def test_events_are_read_whatever_the_pieces_they_come_in() -> None:
    whole = b"".join(events('{"n": 1}', '{"n": 2}', "[DONE]"))
    for parts in ([OK, whole], [CHUNKED, *pieces(whole[:7], whole[7:30], whole[30:])]):
        async with answering(b"".join(parts[:1]), *parts[1:]) as server:
            got = [event["n"] async for each in post_events(server.url, {}) for event in each]
        assert got == [1, 2]


async def test_a_piece_may_be_cut_anywhere() -> None:
    whole = CHUNKED + b"".join(pieces(b"".join(events('{"n": 1}')), b"".join(events('{"n": 2}'))))
    for cut in range(len(CHUNKED), len(whole), 5):
        async with answering(whole[:cut], whole[cut:]) as server:
            assert [event["n"] async for each in post_events(server.url, {}) for event in each] == [1, 2]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\n\r\nno key", "401: no key"),
        (b"", "is no HTTP, or ends too early"),
        (CHUNKED + b"5\r\nda", "is no HTTP, or ends too early"),
        (CHUNKED + b"zz\r\n", "is no HTTP, or ends too early"),
        (OK + b"data: {\n\n", "is no stream of JSON events"),
        (OK + b'data: {"error": {"message": "too long"}}\n\n', "too long"),
    ],
)
async def test_what_goes_wrong_is_one_kind_of_error(answer: bytes, problem: str) -> None:
    async with answering(answer) as server:
        with pytest.raises(ConnectionError, match=problem):
            async for _ in post_events(server.url, {}):
                pass
    # Nobody listens there any more.
    with pytest.raises(OSError):
        async for _ in post_events(server.url, {}):
            pass


async def test_a_refusal_is_told_from_what_breaks() -> None:
    async with answering(b"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n", *pieces(b"why")) as server:
        with pytest.raises(Refused, match="500: why"):
            async for _ in post_events(server.url, {}):
                pass


async def test_a_completion_of_openais_protocol() -> None:
    told = events(
        '{"choices": [{"text": "a"}]}',
        '{"choices": [{"text": "bc"}]}',
        '{"choices": [], "usage": {"completion_tokens": 2}}',
        "[DONE]",
    )
    async with answering(OK, *told) as server:
        stream = Stream()
        await OpenAiServer(f"{server.url}/v1/", "m").asking(TEXT, PLAIN, 16)(stream)
    assert stream.num_tokens == 2
    asked = body_of(server.asked[0])
    assert server.asked[0].startswith(b"POST /v1/completions ")
    assert (asked["model"], asked["prompt"], asked["max_tokens"], asked["temperature"]) == ("m", "go on", 16, 0)
    assert b"Authorization" not in server.asked[0]


async def test_an_answer_of_openais_protocol_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "shared")
    monkeypatch.setenv("OUTRIDER_BENCH_PEER_KEY", "own")
    told = events(
        '{"choices": [{"delta": {"role": "assistant"}}]}',
        '{"choices": [{"delta": {"reasoning_content": "hm"}}]}',
        '{"choices": [{"delta": {"content": "hi"}}]}',
    )
    async with answering(OK, *told) as server:
        stream = Stream()
        await OpenAiServer(server.url, "m").asking(CHAT, PLAIN, 16)(stream)
    assert stream.num_tokens == 2
    assert body_of(server.asked[0])["messages"] == [{"role": "user", "content": "hello"}]
    assert b"Authorization: Bearer own\r\n" in server.asked[0]


async def test_the_first_model_that_is_listed_is_asked() -> None:
    async with answering(OK, b'{"data": [{"id": "first"}, {"id": "second"}]}') as server, AsyncExitStack() as running:
        peer = OpenAiServer(server.url)
        await peer.start(running)
        await peer.asking(TEXT, PLAIN, 1)(Stream())
    assert body_of(server.asked[1])["model"] == "first"
    async with answering(OK, b'{"data": []}') as server, AsyncExitStack() as running:
        with pytest.raises(ConnectionError, match="--peer-model"):
            await OpenAiServer(server.url).start(running)


def test_tokens_are_shared_out_where_events_are_not_tokens() -> None:
    chunks = [Chunk(1.0, 1), Chunk(2.0, 1), Chunk(3.0, 2)]
    assert scaled(chunks, 4) == chunks
    assert scaled(chunks, 8) == [Chunk(1.0, 2), Chunk(2.0, 2), Chunk(3.0, 4)]
    assert scaled(chunks, 2) == [Chunk(2.0, 1), Chunk(3.0, 1)]
    assert scaled([], 5) == []


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("plain", []),
        ("3", ["--spec-type", "draft-simple", "--spec-draft-n-max", "3"]),
        ("16/0.75", ["--spec-draft-n-max", "16", "--spec-draft-p-min", "0.75"]),
        ("ngram-mod", ["--spec-type", "ngram-mod"]),
    ],
)
def test_settings_of_llama_server_are_its_flags(name: str, flags: list[str]) -> None:
    setting = parse_setting(name)
    assert setting.name == name
    given = server_flags(MODELS, setting, 1234)
    assert all(flag in given for flag in flags)
    assert ("--model-draft" in given) == (setting.kind == "fixed")
    assert given[given.index("--ctx-size") + 1] == "2048"


@pytest.mark.parametrize("name", ["0", "auto", "3/2", "3/x", "ngram", "draft-mtp", ""])
def test_other_settings_of_llama_server_are_refused(name: str) -> None:
    with pytest.raises(ValueError):
        parse_setting(name)


async def test_a_llama_server_that_ends_is_told(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    async with AsyncExitStack() as running:
        with pytest.raises(ConnectionError, match="ended with code 3"):
            await LlamaServer(program, MODELS, [PLAIN]).start(running)


async def test_a_setting_of_llama_server_that_does_not_start_costs_no_others(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    program.write_text(f"""#!{sys.executable}
import http.server, sys

class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

if "--spec-type" in sys.argv:
    sys.exit(4)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Healthy).serve_forever()
""")
    program.chmod(0o755)
    async with AsyncExitStack() as running:
        peer = LlamaServer(program, MODELS, [PLAIN, parse_setting("ngram-mod")])
        assert await peer.start(running) == {"ngram-mod": "llama-server ended with code 4"}
        assert [setting.name for setting in peer.settings] == ["plain"]
        assert set(peer.processes(PLAIN)) == {"llama-server"}


async def test_a_completion_of_llama_server() -> None:
    told = events(
        '{"tokens": [5], "stop": false}',
        '{"tokens": [6, 7], "stop": false}',
        '{"tokens": [], "stop": true, "timings": {"predicted_n": 3, "predicted_ms": 10.0}}',
    )
    async with answering(OK, *told) as server:
        peer = LlamaServer(Path("x"), MODELS, [PLAIN])
        peer._ports["plain"] = int(server.url.rpartition(":")[2])
        stream = Stream()
        await peer.asking(TEXT, PLAIN, 3)(stream)
    assert stream.num_tokens == 3
    assert stream.summary["timings"]["predicted_n"] == 3
    assert body_of(server.asked[0])["n_predict"] == 3
