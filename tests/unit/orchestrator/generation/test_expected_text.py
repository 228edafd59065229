"""What a client expects, as tokens that follow a prompt."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from orchestrator.generation.expected_text import check_prediction, read_prediction
from outrider.v1 import common_pb2, generation_pb2, target_pb2
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


def with_words(text: str) -> list[int]:
    """What is no word is its letters: after a line feed there is none."""
    return [3, 3] if text == "aa" else [*plainly(text), *plainly(text)]


def as_another_text(text: str) -> list[int]:
    """As a tokenizer that makes one character of several, or the other way round."""
    return [2] * len(text)


def rpc_error(code: grpc.StatusCode, message: str) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(code, metadata, metadata, message)


class Tokenizer:
    """The part of a target's stub that is asked."""

    def __init__(self, tokenize: Callable[[str], list[int]]) -> None:
        self.asked: list[target_pb2.TokenizeRequest] = []
        self._tokenize = tokenize

    async def Tokenize(self, request: target_pb2.TokenizeRequest) -> target_pb2.TokenizeResponse:
        self.asked.append(request)
        tokens = self._tokenize(request.text)
        if len(tokens) > request.max_tokens:
            raise rpc_error(grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)")
        return target_pb2.TokenizeResponse(tokens=tokens)


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
        pytest.param(as_another_text, "é", [2], 2, id="not the tokens of this text"),
        pytest.param(as_another_text, "é\n", [2, 2], 2, id="another text that is as long"),
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


async def test_a_text_that_is_as_long_as_may_be() -> None:
    """It is asked for a second time, with a line feed before it, which must not make it too long."""
    assert await read(plainly, generation_pb2.Prediction(text="abab"), most=4) == ([2, 5, 2, 5], 1)
    assert await read(with_a_space, generation_pb2.Prediction(text="abab"), most=4) == ([2, 5, 2, 5], 2)
    assert await read(with_words, generation_pb2.Prediction(text="aa"), most=2) == ([3, 3], 2)
    for tokenize in (plainly, with_a_space):
        with pytest.raises(ServiceError, match="has more than 3 tokens") as info:
            await read(tokenize, generation_pb2.Prediction(text="abab"), most=3)
        assert [each.field for each in info.value.field_violations] == ["prediction.text"]


@pytest.mark.parametrize("tokens", [[], [7], [7, 0]])
def test_ids_that_the_target_does_not_have(tokens: list[int]) -> None:
    prediction = generation_pb2.Prediction(tokens=generation_pb2.TokenPrompt(tokens=tokens))
    check_prediction(prediction, common_pb2.ModelInfo(vocabulary_size=8))
    check_prediction(generation_pb2.Prediction(text="ab"), common_pb2.ModelInfo(vocabulary_size=1))
    if tokens:
        with pytest.raises(ServiceError, match="token 7 is outside the vocabulary of 7 ids") as info:
            check_prediction(prediction, common_pb2.ModelInfo(vocabulary_size=7))
        assert [each.field for each in info.value.field_violations] == ["prediction.tokens.tokens"]


class Refusing:
    """A target that does not answer."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self._error = rpc_error(code, message)

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
