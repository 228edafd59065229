"""The same request gives the same text, whichever way it is asked."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from outrider.v1 import common_pb2, generation_pb2, target_pb2
from tests.integration.conftest import System
from tests.integration.http.faces import Faces, both_faces, chatting_model, events_of, http_client
from tests.integration.services import AUTO, OFF, orchestrator_server

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

ASKED = {"prompt": "def main(", "max_tokens": 32, "seed": 5, "temperature": 0.8, "top_k": 40}
SAMPLING = common_pb2.Sampling(temperature=0.8, top_k=40)
CHAT: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def faces(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Faces]:
    async with both_faces(chatting_model(tmp_path_factory.mktemp("chatting"))) as faces:
        yield faces


@pytest_asyncio.fixture(loop_scope="module")
async def http(shared_system: System) -> AsyncIterator[httpx2.AsyncClient]:
    """HTTP in front of the pair."""
    system = shared_system
    server = orchestrator_server(system.target.address, system.draft.address, http="127.0.0.1:0")
    async with server as orchestrator, http_client(orchestrator) as client:
        yield client


@pytest.mark.parametrize("outrider", [{}, {"mode": "off"}, {"num_draft_tokens": 5}, {"drafter": "ngram"}])
async def test_completions_say_what_grpc_says(
    shared_system: System, http: httpx2.AsyncClient, outrider: dict[str, Any]
) -> None:
    expected = await shared_system.client.generate("def main(", max_tokens=32, sampling=SAMPLING, speculation=OFF)
    whole = (await http.post("/v1/completions", json=ASKED | {"outrider": outrider})).json()
    assert whole["choices"][0]["text"] == expected.text
    events = await events_of(http, "/v1/completions", ASKED | {"outrider": outrider})
    assert "".join(each["choices"][0]["text"] for each in events) == expected.text
    assert whole["usage"]["completion_tokens"] == expected.summary.usage.num_generated_tokens


async def test_what_drafts_did_is_told(shared_system: System, http: httpx2.AsyncClient) -> None:
    # Until this orchestrator has found the draft, too.
    while True:
        told = (await http.post("/v1/completions", json=ASKED | {"outrider": {"num_draft_tokens": 4}})).json()
        if told["outrider"]["drafters"]:
            break
    (drafter,) = told["outrider"]["drafters"]
    assert drafter["drafter"] == "remote"
    assert told["timings"]["draft_n"] == drafter["num_draft_tokens"] > 0
    details = told["usage"]["completion_tokens_details"]
    assert sum(details.values()) == told["timings"]["draft_n"]
    acceptance = told["metrics"]["speculative_decoding"]
    assert sum(acceptance["acceptance_histogram"]) == acceptance["num_spec_steps"]
    assert acceptance["num_spec_tokens"] == 4


@pytest.mark.parametrize("is_thinking", [True, False])
async def test_chats_say_the_same_by_all_their_apis(faces: Faces, is_thinking: bool) -> None:
    variables = {"enable_thinking": is_thinking}
    prompt = generation_pb2.ChatPrompt(messages=[target_pb2.ChatMessage(**message) for message in CHAT])
    prompt.template_variables.update(variables)
    expected = await faces.grpc.generate(chat=prompt, max_tokens=24, sampling=SAMPLING, speculation=AUTO)
    content, reasoning = ("".join(getattr(each, part) for each in expected.chunks) for part in ("content", "reasoning"))
    shared = {"seed": 5, "temperature": 0.8, "top_k": 40, "chat_template_kwargs": variables}

    chat = (await faces.http.post("/v1/chat/completions", json=shared | {"messages": CHAT, "max_tokens": 24})).json()
    message = chat["choices"][0]["message"]
    assert (message["content"], message.get("reasoning_content", "")) == (content, reasoning)

    asked = shared | {"instructions": "Be brief.", "input": "Hello?", "max_output_tokens": 24}
    output = (await faces.http.post("/v1/responses", json=asked)).json()["output"]
    said = {item["type"]: item["content"][0]["text"] for item in output}
    assert (said.get("message", ""), said.get("reasoning", "")) == (content, reasoning)

    asked = shared | {"system": "Be brief.", "messages": CHAT[1:], "max_tokens": 24}
    blocks = (await faces.http.post("/v1/messages", json=asked)).json()["content"]
    told = {block["type"]: block.get("text", block.get("thinking")) for block in blocks}
    assert (told.get("text", ""), told.get("thinking", "")) == (content, reasoning)

    deltas = [each["delta"] for each in await events_of(faces.http, "/v1/messages", asked) if "delta" in each]
    assert "".join(delta.get("text", "") for delta in deltas) == content
    assert "".join(delta.get("thinking", "") for delta in deltas) == reasoning


async def test_counts_of_tokens_are_those_of_the_prompt(faces: Faces) -> None:
    asked = {"messages": CHAT[1:], "system": "Be brief."}
    counted = (await faces.http.post("/v1/messages/count_tokens", json=asked)).json()["input_tokens"]
    told = (await faces.http.post("/v1/messages", json=asked | {"max_tokens": 1})).json()
    assert told["usage"]["input_tokens"] + told["usage"]["cache_read_input_tokens"] == counted > 0


async def test_texts_go_there_and_back(faces: Faces) -> None:
    tokens = (await faces.http.post("/tokenize", json={"content": "Hello, wörld"})).json()["tokens"]
    assert (await faces.http.post("/detokenize", json={"tokens": tokens})).json() == {"content": "Hello, wörld"}
    prompt = (await faces.http.post("/apply-template", json={"messages": CHAT})).json()["prompt"]
    assert prompt == "system: Be brief.\nuser: Hello?\nassistant: <think></think>"


async def test_a_prompt_of_tokens_says_what_its_text_says(faces: Faces) -> None:
    tokens = (await faces.http.post("/tokenize", json={"content": "Hello", "add_special": True})).json()["tokens"]
    asked = {"max_tokens": 8, "temperature": 0}
    by_text = (await faces.http.post("/v1/completions", json=asked | {"prompt": "Hello"})).json()
    by_tokens = (await faces.http.post("/v1/completions", json=asked | {"prompt": tokens})).json()
    assert by_text["choices"][0]["text"] == by_tokens["choices"][0]["text"]


async def test_a_prompt_is_scored_as_an_answer_is(shared_system: System, http: httpx2.AsyncClient) -> None:
    """An answer's log-probabilities are those that it has as a prompt."""
    asked = {"max_tokens": 6, "temperature": 0, "logprobs": 1, "outrider": {"mode": "off"}}
    tokens = (await http.post("/tokenize", json={"content": "def main(", "add_special": True})).json()["tokens"]
    answer = (await http.post("/v1/completions", json=asked | {"prompt": tokens})).json()["choices"][0]
    said = (await http.post("/tokenize", json={"content": answer["text"]})).json()["tokens"]
    scored = asked | {"prompt": [*tokens, *said], "echo": True, "max_tokens": 0}
    echoed = (await http.post("/v1/completions", json=scored)).json()["choices"][0]
    assert echoed["text"].endswith("def main(" + answer["text"])
    assert echoed["logprobs"]["token_logprobs"][0] is None
    after = echoed["logprobs"]["token_logprobs"][len(tokens) :]
    assert after == pytest.approx(answer["logprobs"]["token_logprobs"], abs=1e-3)


async def test_the_draft_answers_by_itself(http: httpx2.AsyncClient) -> None:
    asked = {"prompt": "def main(", "max_tokens": 8, "temperature": 0, "model": "draft"}
    # It is found a moment after the target.
    while (answer := await http.post("/v1/completions", json=asked)).status_code != 200:
        assert answer.status_code in (404, 503)
    told = answer.json()
    assert told["model"] == "outrider-draft"
    assert told["usage"]["completion_tokens"] == 8
    assert not told["outrider"]["exact"]
    refused = await http.post("/v1/completions", json=asked | {"logprobs": 1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprobs")


async def test_what_was_read_before_is_told(http: httpx2.AsyncClient) -> None:
    asked = {"prompt": "import os\n" * 8, "max_tokens": 1, "outrider": {"mode": "off"}}
    # Of the first one others have read the first token, perhaps.
    for fewest, most in ((0, 1), (24, 1000)):
        told = (await http.post("/v1/completions", json=asked)).json()
        assert fewest <= told["usage"]["prompt_tokens_details"]["cached_tokens"] <= most
        assert told["timings"]["cache_n"] + told["timings"]["prompt_n"] == told["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "a", "temperature": -1}, "temperature"),
        ("/v1/completions", {"prompt": "a", "stop": [str(index) for index in range(10_000)]}, "stop"),
        ("/v1/completions", {"prompt": "a", "logprobs": 21}, "logprobs"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ("/v1/completions", {"prompt": [100_000]}, "prompt"),
        ("/v1/completions", {"prompt": ""}, "prompt"),
        ("/v1/completions", {"prompt": "a b " * 1000}, None),
        ("/v1/chat/completions", {"messages": []}, "messages"),
        ("/v1/chat/completions", {"messages": CHAT, "chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ("/v1/completions", {"prompt": "a", "outrider": {"require_exact": True}}, None),
        ("/detokenize", {"tokens": [100_000]}, "tokens"),
    ],
)
async def test_what_the_services_refuse(faces: Faces, path: str, body: dict[str, Any], param: str | None) -> None:
    answer = await faces.http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
