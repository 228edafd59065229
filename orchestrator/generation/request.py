"""What a client asks for: checked, and its prompt as tokens."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace

import grpc

from orchestrator.generation.expected_text import check_prediction
from orchestrator.generation.speculation import check_speculation
from orchestrator.peers.patient_session import is_too_large, target_unavailable, too_large
from outrider.v1 import common_pb2, generation_pb2, target_pb2, target_pb2_grpc
from services.frame.rpc.errors import ServiceError, error_from_rpc, invalid_argument, is_from_server
from services.frame.rpc.limits import MAX_LOG_PROBABILITIES
from services.session.sequence import TokenSequence

_MAX_STOP_STRINGS = 64
_LONG_PROMPT = 8192
# Characters of what a client wrote that an error shows.
_MOST_SHOWN = 64


def check_request(request: generation_pb2.GenerateRequest, info: common_pb2.ModelInfo) -> None:
    """Raise ServiceError for a request that cannot be served."""
    if not (request.text or request.chat.messages or request.tokens.tokens):
        raise invalid_argument("EMPTY_PROMPT", _prompt_field(request), "a prompt is needed")
    if (most := max(request.tokens.tokens, default=0)) >= info.vocabulary_size:
        raise invalid_argument(
            "TOKEN_OUT_OF_RANGE",
            "tokens.tokens",
            f"token {most} is outside the vocabulary of {info.vocabulary_size} ids",
        )
    if len(request.stop) > _MAX_STOP_STRINGS or not all(request.stop):
        raise invalid_argument(
            "INVALID_REQUEST", "stop", f"at most {_MAX_STOP_STRINGS} stop strings are taken, none of them empty"
        )
    if len(request.stop_tokens) > _MAX_STOP_STRINGS:
        raise invalid_argument("INVALID_REQUEST", "stop_tokens", f"at most {_MAX_STOP_STRINGS} stop tokens are taken")
    if max(request.stop_tokens, default=0) >= info.vocabulary_size:
        raise invalid_argument(
            "TOKEN_OUT_OF_RANGE",
            "stop_tokens",
            f"token {max(request.stop_tokens)} is outside the vocabulary of {info.vocabulary_size} ids",
        )
    if request.max_tokens < (0 if request.HasField("num_prompt_log_probabilities") else 1):
        raise invalid_argument(
            "INVALID_REQUEST", "max_tokens", "ask for at least one token, or for the prompt's log-probabilities"
        )
    for field in ("num_log_probabilities", "num_prompt_log_probabilities"):
        if getattr(request, field) > MAX_LOG_PROBABILITIES:
            raise invalid_argument("INVALID_REQUEST", field, f"at most {MAX_LOG_PROBABILITIES} can be asked for")
    if len(request.sampling.logit_bias) > info.vocabulary_size:
        raise invalid_argument("INVALID_SAMPLING", "sampling.logit_bias", "it has more tokens than the vocabulary")
    check_speculation(request.speculation, info)
    check_prediction(request.prediction, info)
    if request.require_exact and info.exact_mode == common_pb2.EXACT_MODE_OFF:
        raise ServiceError(
            grpc.StatusCode.FAILED_PRECONDITION, "EXACT_UNAVAILABLE", "the target does not run in an exact mode"
        )


def check_alone(request: generation_pb2.GenerateRequest) -> None:
    """Raise ServiceError for what the draft model cannot do where it answers by itself."""
    for field in ("num_log_probabilities", "num_prompt_log_probabilities"):
        if request.HasField(field):
            raise invalid_argument("INVALID_REQUEST", field, "the draft model has no log-probabilities")
    for field, impossible in (
        ("mode", (generation_pb2.SPECULATION_MODE_FIXED,)),
        ("drafter", (generation_pb2.DRAFTER_REMOTE, generation_pb2.DRAFTER_NGRAM, generation_pb2.DRAFTER_PREDICTION)),
    ):
        if getattr(request.speculation, field) in impossible:
            raise invalid_argument("INVALID_REQUEST", f"speculation.{field}", "nobody drafts for the draft model")
    if request.HasField("prediction"):
        raise invalid_argument("INVALID_REQUEST", "prediction", "nobody drafts for the draft model")
    if request.require_exact:
        raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "EXACT_UNAVAILABLE", "the draft model is never exact")


def model_unknown(name: str, names: Iterable[str]) -> ServiceError:
    """Return the error of a request that names a model which is none of those that answer."""
    known = ", ".join(map(repr, names))
    sentence = f"no model here is called {name[:_MOST_SHOWN]!r}: name one of {known}, or none"
    return ServiceError(grpc.StatusCode.NOT_FOUND, "MODEL_UNKNOWN", sentence)


async def read_prompt(
    stub: target_pb2_grpc.TargetServiceStub, request: generation_pb2.GenerateRequest, most: int
) -> tuple[Sequence[int], target_pb2.AnswerFormat | None]:
    """Return the prompt's ids, fewer than `most`, and for a chat how its answer is parted.

    Raises ServiceError: the target refuses it or is away, or it has too many tokens or none.
    """
    if len(request.chat.messages) >= most:
        raise _prompt_too_long(len(request.chat.messages), most)
    try:
        tokens, form = await _tokenize(stub, request, most - 1)
    except grpc.aio.AioRpcError as error:
        raise _of_prompt(refusal_of_texts(error), request) from error
    if not tokens:
        raise invalid_argument("EMPTY_PROMPT", _prompt_field(request), "the prompt has no tokens")
    if len(tokens) >= most:
        raise _prompt_too_long(len(tokens), most)
    return tokens, form


def refusal_of_texts(error: grpc.aio.AioRpcError) -> ServiceError:
    """Return why the target has not tokenized, detokenized or rendered what it was asked to."""
    refusal = error_from_rpc(error)
    # A message that is too long is refused by gRPC, anything else that is not the target's word by a proxy.
    is_final = is_from_server(error) or refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    if refusal.code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED) or not is_final:
        return target_unavailable(f"the target is away: {refusal.message}")
    return too_large(refusal) if is_too_large(refusal) else refusal


async def sequence_of(prompt: Sequence[int]) -> TokenSequence:
    """Take the digests of a prompt, of a long one in a thread: they are a second of work for a million tokens."""
    if len(prompt) < _LONG_PROMPT:
        return TokenSequence(prompt)
    return await asyncio.to_thread(TokenSequence, prompt)


async def _tokenize(
    stub: target_pb2_grpc.TargetServiceStub, request: generation_pb2.GenerateRequest, most: int
) -> tuple[Sequence[int], target_pb2.AnswerFormat | None]:
    match request.WhichOneof("prompt"):
        case "tokens":
            return request.tokens.tokens, None
        case "chat":
            rendered = await stub.ApplyChatTemplate(
                target_pb2.ApplyChatTemplateRequest(
                    messages=request.chat.messages,
                    add_generation_prompt=not request.chat.continue_final_message,
                    continue_final_message=request.chat.continue_final_message,
                    tools=request.chat.tools,
                    template_variables=request.chat.template_variables,
                    template_name=request.chat.template_name,
                    max_tokens=most,
                )
            )
            return rendered.tokens, rendered.answer_format
        case _:
            text = target_pb2.TokenizeRequest(text=request.text, add_bos=True, max_tokens=most)
            return (await stub.Tokenize(text)).tokens, None


def _prompt_field(request: generation_pb2.GenerateRequest) -> str:
    """Return the path of the field that holds the prompt, or that of the choice among them where there is none."""
    paths = {"text": "text", "chat": "chat.messages", "tokens": "tokens.tokens"}
    return paths.get(request.WhichOneof("prompt") or "", "prompt")


def _of_prompt(refusal: ServiceError, request: generation_pb2.GenerateRequest) -> ServiceError:
    """Return what the target refused of a prompt, with the paths that its fields have in the request."""
    if request.HasField("chat"):
        violations = refusal.field_violations
        refusal.field_violations = tuple(replace(each, field=f"chat.{each.field}") for each in violations)
    return refusal


def _prompt_too_long(num_tokens: int, most: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        "PROMPT_TOO_LONG",
        f"the prompt has {num_tokens} tokens, the context of {most} leaves no room for more",
    )
