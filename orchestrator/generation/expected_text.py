"""What a client expects as the answer, checked, and as tokens."""

from collections.abc import Sequence

import grpc

from orchestrator.peers.patient_session import is_too_large, target_unavailable
from outrider.v1 import common_pb2, generation_pb2, target_pb2, target_pb2_grpc
from services.frame.rpc.errors import ServiceError, error_from_rpc, invalid_argument, is_from_server


def check_prediction(prediction: generation_pb2.Prediction, info: common_pb2.ModelInfo) -> None:
    """Raise ServiceError for ids that the target does not have."""
    if (most := max(prediction.tokens.tokens, default=0)) >= info.vocabulary_size:
        raise invalid_argument(
            "TOKEN_OUT_OF_RANGE",
            "prediction.tokens.tokens",
            f"token {most} is outside the vocabulary of {info.vocabulary_size} ids",
        )


async def read_prediction(
    stub: target_pb2_grpc.TargetServiceStub,
    prediction: generation_pb2.Prediction,
    token_bytes: Sequence[bytes],
    most: int,
) -> list[int]:
    """Return the ids with which a model would say it after a prompt, at most so many; none where none is expected.

    `token_bytes[i]` is what token i adds to the text. Raises ServiceError: it is too long, or the target is away.
    """
    if len(prediction.tokens.tokens) > most:
        raise _too_long("tokens.tokens", most)
    if not prediction.text:
        return list(prediction.tokens.tokens)
    tokens = await _tokenize(stub, prediction.text, most)
    expected = prediction.text.encode()
    if sum(len(token_bytes[token]) for token in tokens) == len(expected):
        return tokens
    # Some tokenizers put a space in front of every text, which what follows a prompt does not have. Where a line feed
    # has it instead, it is left out with that.
    try:
        longer = await _tokenize(stub, f"\n{prediction.text}", most + 2)
    except ServiceError as error:
        if error.code is not grpc.StatusCode.INVALID_ARGUMENT:
            raise
        # It was as large as may be.
        return tokens
    return _ending(longer, token_bytes, expected) or tokens


def _ending(tokens: Sequence[int], token_bytes: Sequence[bytes], expected: bytes) -> list[int]:
    """Return the last tokens, which say what is expected; none where none begins there, or they say something else."""
    start, num_bytes = len(tokens), len(expected)
    while start and num_bytes > 0:
        start -= 1
        num_bytes -= len(token_bytes[tokens[start]])
    ending = list(tokens[start:])
    return ending if b"".join(token_bytes[token] for token in ending) == expected else []


async def _tokenize(stub: target_pb2_grpc.TargetServiceStub, text: str, most: int) -> list[int]:
    try:
        return list((await stub.Tokenize(target_pb2.TokenizeRequest(text=text, max_tokens=most))).tokens)
    except grpc.aio.AioRpcError as error:
        refusal = error_from_rpc(error)
        if refusal.reason == "PROMPT_TOO_LONG" or is_too_large(refusal):
            raise _too_long("text", most) from error
        # What is not the target's word is a proxy's.
        if refusal.code is grpc.StatusCode.UNAVAILABLE or not is_from_server(error):
            raise target_unavailable(f"the target is away: {refusal.message}") from error
        raise invalid_argument("INVALID_REQUEST", "prediction.text", refusal.message) from error


def _too_long(field: str, most: int) -> ServiceError:
    return invalid_argument(
        "INVALID_REQUEST", f"prediction.{field}", f"the prediction has more than {most} tokens, which are all that fit"
    )
