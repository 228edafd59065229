"""TargetService, as far as it is about texts: the tokenizer that all of a pair use, and the model's chat templates."""

import grpc
from google.protobuf import json_format, struct_pb2

from outrider.v1 import common_pb2, target_pb2, target_pb2_grpc
from services.engine.errors import TooLongError
from services.engine.model.vocabulary import Vocabulary
from services.engine.wire import checked_tokens
from services.frame.rpc.errors import ServiceError, invalid_argument
from services.frame.rpc.handlers import RpcContext
from services.frame.rpc.limits import most_tokens
from services.target.answer_format import answer_format, continued_part
from services.target.chat import ChatError, ContinuationError, VariablesError
from services.target.chat_templates import ChatTemplates
from services.target.messages import read_messages, read_tools, texts_of
from services.target.texts import TextThread, check_text

# No slot holds more, and making a message of so many keeps others waiting for a tenth of a second.
_MOST_TOKENS = 1 << 20
# What a message has beside the bytes that it is about.
_BESIDE_BYTES = 16


class TextServicer(target_pb2_grpc.TargetServiceServicer):
    """Tokenizes, detokenizes and renders chats. The engine has no part in it."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        info: common_pb2.ModelInfo,
        chat_templates: ChatTemplates,
        max_message_bytes: int,
    ) -> None:
        self._vocabulary = vocabulary
        self._info = info
        self._chat_templates = chat_templates
        self._texts = TextThread()
        self._most_bytes = max_message_bytes
        self._most_tokens = min(most_tokens(max_message_bytes, vocabulary.size), _MOST_TOKENS)

    async def Tokenize(self, request: target_pb2.TokenizeRequest, context: RpcContext) -> target_pb2.TokenizeResponse:
        """Turn text into ids."""

        def tokenize() -> target_pb2.TokenizeResponse:
            self._vocabulary.check_length(request.text, self._most(request.max_tokens))
            check_text(request.text, "text")
            tokens = self._vocabulary.tokenize(
                request.text,
                add_bos=request.add_bos,
                parse_special=request.parse_special,
                most=self._most(request.max_tokens),
            )
            return target_pb2.TokenizeResponse(tokens=tokens)

        try:
            return await self._texts.run(len(request.text), tokenize)
        except TooLongError as error:
            raise self._too_long(error.count, request.max_tokens) from error

    async def Detokenize(
        self, request: target_pb2.DetokenizeRequest, context: RpcContext
    ) -> target_pb2.DetokenizeResponse:
        """Turn ids into bytes."""
        if len(request.tokens) > _MOST_TOKENS:
            raise _in_parts(f"{len(request.tokens)} tokens are more than {_MOST_TOKENS}")

        def detokenize() -> target_pb2.DetokenizeResponse:
            tokens = checked_tokens(request.tokens, "tokens", self._vocabulary.size)
            text = self._vocabulary.detokenize(
                tokens, most=self._most_bytes - _BESIDE_BYTES, is_continuation=request.is_continuation
            )
            return target_pb2.DetokenizeResponse(text=text)

        try:
            return await self._texts.run(len(request.tokens), detokenize)
        except TooLongError as error:
            raise _in_parts(f"{error.count} bytes of text are more than a message of {self._most_bytes}") from error

    async def ApplyChatTemplate(
        self, request: target_pb2.ApplyChatTemplateRequest, context: RpcContext
    ) -> target_pb2.ApplyChatTemplateResponse:
        """Render a chat."""
        most = self._most(request.max_tokens)
        if len(request.messages) > most:
            raise self._too_long(len(request.messages), request.max_tokens)
        if request.continue_final_message and request.add_generation_prompt:
            sentence = "a prompt ends in the last message or after it: leave add_generation_prompt out"
            raise invalid_argument("INVALID_REQUEST", "continue_final_message", sentence)

        def render() -> target_pb2.ApplyChatTemplateResponse:
            variables = _variables(request.template_variables)
            tools = read_tools(request.tools)
            has_tools = bool(tools or variables.get("tools"))
            template = self._chat_templates.choose(request.template_name, has_tools=has_tools)
            messages = read_messages(request.messages)
            check_text("".join(map(texts_of, messages)), "messages")
            check_text("".join(tool.name + tool.description + tool.parameters for tool in request.tools), "tools")
            text, tokens = template.render(
                messages,
                add_generation_prompt=request.add_generation_prompt,
                continue_final_message=request.continue_final_message,
                tools=tools,
                variables=variables,
                most=most,
            )
            form = answer_format(template.source, text, self._vocabulary.steering_texts)
            if request.continue_final_message:
                form.first = continued_part(form, messages[-1])
            if tools:
                form.tool_calls.extend(template.tool_call_formats)
            reply = target_pb2.ApplyChatTemplateResponse(text=text, tokens=tokens, answer_format=form)
            if reply.ByteSize() > self._most_bytes:
                raise TooLongError(len(tokens))
            return reply

        try:
            return await self._texts.run(request.ByteSize(), render)
        except VariablesError as error:
            raise invalid_argument("INVALID_REQUEST", "template_variables", str(error)) from error
        except ContinuationError as error:
            raise invalid_argument("INVALID_REQUEST", "continue_final_message", str(error)) from error
        except ChatError as error:
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "CHAT_TEMPLATE", str(error)) from error
        except TooLongError as error:
            raise self._too_long(error.count, request.max_tokens) from error

    def _most(self, max_tokens: int) -> int:
        return min(max_tokens or self._most_tokens, self._most_tokens)

    def _too_long(self, num_tokens: int, max_tokens: int) -> ServiceError:
        context = self._info.context_length
        if num_tokens >= context:
            limit = f"a slot holds {context}: shorten it, or give the target more --context"
        elif 0 < max_tokens < num_tokens:
            limit = f"and at most {max_tokens} were asked for"
        else:
            limit = f"a message of {self._most_bytes} bytes holds {self._most_tokens}"
        return ServiceError(
            grpc.StatusCode.OUT_OF_RANGE, "PROMPT_TOO_LONG", f"the prompt has {num_tokens} tokens or more, {limit}"
        )


def _in_parts(what: str) -> ServiceError:
    return invalid_argument("INVALID_REQUEST", "tokens", f"{what}: send the tokens in parts")


def _variables(variables: struct_pb2.Struct) -> dict[str, object]:
    """Return what JSON means by these: it has whole numbers, the message has none.

    Raises VariablesError for numbers that JSON lacks.
    """
    try:
        values = json_format.MessageToDict(variables)
    except ValueError as error:
        raise VariablesError("a template's variable holds a number that is not finite") from error
    return {name: _whole(value) for name, value in values.items()}


def _whole(value: object) -> object:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(item) for item in value]
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case _:
            return value
