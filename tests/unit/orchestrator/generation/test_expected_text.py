"""What a client expects, as tokens that follow a prompt."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from orchestrator.generation.expected_text import read_prediction
from outrider.v1 import generation_pb2, target_pb2
from services.frame.rpc.errors import ServiceError

# A tokenizer of letters, in two kinds: one puts a space in front of every text. 3 is a space with an `a`.
OUTPUTS = [b" ", b"\n", b"a", b" a", b"\n\n", b"b"]
LETTERS = {" ": 0, "\n": 1, "a": 2, "b": 5}


def plainly(text: str) -> list[int]:
    return [LETTERS[letter] for letter in text]


def with_a_space(text: str) -> list[int]:
    """As SentencePiece does."""
    return [3, *plainly(text[1:])] if text.startswith("a") else [0, *plainly(text)]


def with_a_space_and_merges(text: str) -> list[int]:
    """Line feeds that follow each other are one token."""
    return [0, 4, *plainly(text[2:])] if text.startswith("\n\n") else with_a_space(text)


class Tokenizer:
    """The part of a target's stub that is asked."""

    def __init__(self, tokenize: Callable[[str], list[int]]) -> None:
        self.asked: list[target_pb2.TokenizeRequest] = []
        self._tokenize = tokenize

    async def Tokenize(self, request: target_pb2.TokenizeRequest) -> target_pb2.TokenizeResponse:
        self.asked.append(request)
        return target_pb2.TokenizeResponse(tokens=self._tokenize(request.text))


async def read(tokenize: Callable[[str], list[int]], prediction: generation_pb2.Prediction, most: int = 8) -> Any:
    stub: Any = Tokenizer(tokenize)
    return await read_prediction(stub, prediction, OUTPUTS, most), len(stub.asked)


@pytest.mark.parametrize(
    ("tokenize", "text", "tokens", "num_asked"),
    [
        pytest.param(plainly, "ab", [2, 5], 1, id="as it is"),
        pytest.param(with_a_space, "ab", [2, 5], 2, id="without the tokenizer's space"),
        pytest.param(with_a_space, " ab", [0, 2, 5], 2, id="with a space of its own"),
        pytest.param(with_a_space_and_merges, "\nb", [0, 1, 5], 2, id="no token begins where it does"),
        pytest.param(plainly, "", [], 0, id="nothing"),
    ],
)
async def test_a_text_follows_a_prompt(
    tokenize: Callable[[str], list[int]], text: str, tokens: list[int], num_asked: int
) -> None:
    assert await read(tokenize, generation_pb2.Prediction(text=text)) == (tokens, num_asked)


async def test_control_tokens_are_text_and_no_first_token_is_added() -> None:
    stub: Any = Tokenizer(plainly)
    await read_prediction(stub, generation_pb2.Prediction(text="ab"), OUTPUTS, 8)
    assert stub.asked == [target_pb2.TokenizeRequest(text="ab", max_tokens=8)]


async def test_tokens_are_taken_as_they_are() -> None:
    tokens = generation_pb2.Prediction(tokens=generation_pb2.TokenPrompt(tokens=[5, 3]))
    assert await read(plainly, tokens) == ([5, 3], 0)
    assert await read(plainly, generation_pb2.Prediction()) == ([], 0)
    with pytest.raises(ServiceError, match="more than 1 tokens") as info:
        await read(plainly, tokens, most=1)
    assert info.value.code is grpc.StatusCode.INVALID_ARGUMENT


class Refusing:
    """A target that does not answer."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        metadata = grpc.aio.Metadata()
        self._error = grpc.aio.AioRpcError(code, metadata, metadata, message)

    async def Tokenize(self, request: target_pb2.TokenizeRequest) -> target_pb2.TokenizeResponse:
        raise self._error


@pytest.mark.parametrize(
    ("code", "message", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "gone", "TARGET_UNAVAILABLE"),
        (grpc.StatusCode.UNKNOWN, "a proxy", "TARGET_UNAVAILABLE"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", "INVALID_REQUEST"),
    ],
)
async def test_a_target_that_does_not_say(code: grpc.StatusCode, message: str, reason: str) -> None:
    stub: Any = Refusing(code, message)
    with pytest.raises(ServiceError) as info:
        await read_prediction(stub, generation_pb2.Prediction(text="ab"), OUTPUTS, 8)
    assert info.value.reason == reason
