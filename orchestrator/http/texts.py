"""The target's tokenizer and template in llama-server's forms: `/tokenize`, `/detokenize`, `/apply-template`."""

from typing import Any

from fastapi import APIRouter
from pydantic import Field

from orchestrator.http.exchange.reading import Fields, JsonRoute, Many, TokenIds
from orchestrator.http.openai.chat import ChatMessage
from orchestrator.http.openai.log_probabilities import TokenTexts
from orchestrator.http.openai.tools import FunctionTool
from orchestrator.http.sampling import template_variables
from orchestrator.http.served import Served
from orchestrator.http.target_texts import of_target
from outrider.v1 import target_pb2

_TOKENIZE = {"text": "content"}
_TEMPLATE = {"template_variables": "chat_template_kwargs"}


class TokenizeRequest(Fields):
    """A text to be turned into token ids."""

    content: str
    add_special: bool = Field(False, description="whether the model's first token comes first where it wants one")
    parse_special: bool = Field(True, description="whether spellings of control tokens are those tokens")
    with_pieces: bool = Field(False, description="whether each id comes with its text, or with its bytes")


class DetokenizeRequest(Fields):
    """Token ids to be turned into a text."""

    tokens: TokenIds


class TemplateRequest(Fields):
    """A chat to be rendered."""

    messages: Many[ChatMessage]
    tools: Many[FunctionTool] | None = Field(None, description="what the model may call")
    add_generation_prompt: bool | None = Field(None, description="whether it ends with the opening of an answer; true")
    continue_final_message: bool | None = Field(None, description="whether it ends in the last message, an assistant's")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables of the template")
    with_tokens: bool = Field(False, description="whether its token ids come too, those that the model is asked with")


def text_routes(served: Served) -> APIRouter:
    """Return the routes of texts."""
    routes = APIRouter(route_class=JsonRoute)

    @routes.post("/tokenize", summary="Token ids of a text", tags=["texts"])
    async def tokenize(asked: TokenizeRequest) -> dict[str, Any]:
        await served.backend.target.ready()
        request = target_pb2.TokenizeRequest(
            text=asked.content, add_bos=asked.add_special, parse_special=asked.parse_special
        )
        reply = await of_target(served.backend.target.stub.Tokenize(request), _TOKENIZE)
        if not asked.with_pieces:
            return {"tokens": list(reply.tokens)}
        texts = TokenTexts(served.backend.target.served)
        return {"tokens": [{"id": token, "piece": _piece(texts.bytes_of(token))} for token in reply.tokens]}

    @routes.post("/detokenize", summary="The text of token ids", tags=["texts"])
    async def detokenize(asked: DetokenizeRequest) -> dict[str, Any]:
        await served.backend.target.ready()
        request = target_pb2.DetokenizeRequest(tokens=asked.tokens)
        reply = await of_target(served.backend.target.stub.Detokenize(request), {})
        return {"content": reply.text.decode(errors="replace")}

    @routes.post("/apply-template", summary="A chat as the model's template renders it", tags=["texts"])
    async def apply_template(asked: TemplateRequest) -> dict[str, Any]:
        await served.backend.target.ready()
        request = target_pb2.ApplyChatTemplateRequest(
            messages=[message.to_message() for message in asked.messages],
            tools=[tool.to_tool() for tool in asked.tools or ()],
            continue_final_message=bool(asked.continue_final_message),
            add_generation_prompt=not asked.continue_final_message
            if asked.add_generation_prompt is None
            else asked.add_generation_prompt,
            template_variables=template_variables(asked.chat_template_kwargs or {}),
        )
        reply = await of_target(served.backend.target.stub.ApplyChatTemplate(request), _TEMPLATE)
        return {"prompt": reply.text} | ({"tokens": list(reply.tokens)} if asked.with_tokens else {})

    return routes


def _piece(told: bytes) -> str | list[int]:
    try:
        return told.decode()
    except UnicodeDecodeError:
        return list(told)
