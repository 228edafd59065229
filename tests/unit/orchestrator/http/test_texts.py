"""The target's tokenizer and template over HTTP."""

from typing import Any

import grpc
import pytest

from outrider.v1 import target_pb2
from tests.unit.orchestrator.http.scripted_face import face


async def test_token_ids_of_a_text() -> None:
    async with face() as made:
        assert (await made.post("/tokenize", {"content": "a b"})).json() == {"tokens": [1, 1]}
        asked = {"content": "a", "add_special": True, "parse_special": False}
        assert (await made.post("/tokenize", asked)).json() == {"tokens": [0, 1]}
        first, second = made.texts.asked
    assert (first.text, first.add_bos, first.parse_special) == ("a b", False, True)
    assert (second.add_bos, second.parse_special) == (True, False)


async def test_token_ids_with_their_pieces() -> None:
    async with face() as made:

        async def halves(request: Any) -> target_pb2.TokenizeResponse:
            return target_pb2.TokenizeResponse(tokens=[0, 5, 7])

        made.texts.Tokenize = halves  # type: ignore[method-assign]
        told = (await made.post("/tokenize", {"content": "a", "with_pieces": True})).json()
    # Bytes where they are no text by themselves, and a control token as it is spelled.
    assert told["tokens"] == [{"id": 0, "piece": "Hello"}, {"id": 5, "piece": [0xC3]}, {"id": 7, "piece": "<end>"}]


async def test_the_text_of_token_ids() -> None:
    async with face() as made:
        assert (await made.post("/detokenize", {"tokens": [0, 1, 5]})).json() == {"content": "Hello world\ufffd"}


async def test_a_rendered_chat() -> None:
    asked = {"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": {"enable_thinking": False}}
    async with face() as made:
        assert (await made.post("/apply-template", asked)).json() == {"prompt": "user: a\n"}
        (request,) = made.texts.asked
        with_tokens = await made.post("/apply-template", asked | {"with_tokens": True})
        assert with_tokens.json() == {"prompt": "user: a\n", "tokens": [1, 1]}
    assert request.add_generation_prompt
    assert not request.continue_final_message
    assert request.template_variables["enable_thinking"] is False


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"text": "a", "content": "a"}, "text"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/apply-template", {"messages": [{"role": "user", "content": "a"}], "functions": []}, "functions"),
    ],
)
async def test_what_is_refused(path: str, body: dict[str, Any], param: str) -> None:
    async with face() as made:
        answer = await made.post(path, body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert not made.texts.asked


async def test_a_target_that_is_away() -> None:
    async with face() as made:

        async def away(request: Any) -> Any:
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")

        made.texts.Tokenize = away  # type: ignore[method-assign]
        answer = await made.post("/tokenize", {"content": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "target_unavailable")
