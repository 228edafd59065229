"""A chat in the form that a template wants, with nothing of it left out that it has a place for."""

import hashlib
import json
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from services.target.messages import ASSISTANT, TOOL, Message, ToolCall
from services.target.template_needs import CallForm, Fields, IdForm, TemplateNeeds

_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_ID_CHARACTERS = string.ascii_letters + string.digits


def left_out(messages: Sequence[Message], has_tools: bool, needs: TemplateNeeds) -> str:
    """Return what of a chat the template would leave out without a word; empty where that is nothing."""
    if has_tools and needs.tools_variable is None:
        return "tools"
    if any(message.tool_calls for message in messages) and needs.call is None:
        return "the tool calls of an assistant"
    if any(message.role == TOOL for message in messages) and not needs.shows_results:
        return "what tools answer"
    return ""


def shaped(messages: Sequence[Message], needs: TemplateNeeds) -> list[Message]:
    """Return a chat in which each message has as much as the template takes of one, and ids that it takes.

    Calls that it takes one at a time come one after the other, each with what the tool answered.
    """
    if not any(message.tool_calls for message in messages) or needs.call is None:
        return list(messages)
    split = [part for message in messages for part in _said_before(message, needs)]
    if not needs.takes_several_calls:
        split = list(_one_by_one(split))
    return list(_with_ids(split, needs.call.ids))


def call_fields(calls: Sequence[ToolCall], form: CallForm) -> list[Fields]:
    """Return calls as OpenAI writes them, which is what templates know."""
    return [{"id": call.id, "type": "function", "function": _function(call, form)} for call in calls]


def _function(call: ToolCall, form: CallForm) -> Fields:
    arguments: Any = call.arguments.strip() or "{}"
    return {"name": call.name, "arguments": arguments if form.is_text else json.loads(arguments)}


def _said_before(message: Message, needs: TemplateNeeds) -> list[Message]:
    """Part what is said from the calls, where it shows only so."""
    if not (message.tool_calls and message.content) or needs.says_beside_calls or not needs.says_before_calls:
        return [message]
    said = replace(message, tool_calls=())
    return [said, replace(message, content="", parts=(), reasoning="")]


def _one_by_one(messages: Sequence[Message]) -> Iterator[Message]:
    rest = iter(messages)
    message = next(rest, None)
    while message is not None:
        if len(message.tool_calls) < 2:
            yield message
            message = next(rest, None)
            continue
        answers = []
        while (following := next(rest, None)) is not None and following.role == TOOL:
            answers.append(following)
        for index, call in enumerate(message.tool_calls):
            said = replace(message, content="", parts=(), reasoning="") if index else message
            yield replace(said, tool_calls=[call])
            yield from (answer for answer in answers if answer.tool_call_id == call.id)
        ids = {call.id for call in message.tool_calls}
        yield from (answer for answer in answers if answer.tool_call_id not in ids)
        message = following


def _with_ids(messages: Sequence[Message], form: IdForm) -> Iterator[Message]:
    """Give calls, and answers to them, ids of this form; and answers the name of the tool."""
    called: dict[str, ToolCall] = {}
    num_calls = 0
    for message in messages:
        calls = []
        for call in message.tool_calls:
            calls.append(replace(call, id=_id(call, form, num_calls)))
            called[call.id] = calls[-1]
            num_calls += 1
        answered = called.get(message.tool_call_id) if message.role == TOOL else None
        if answered is not None:
            yield replace(message, tool_call_id=answered.id, name=message.name or answered.name)
        else:
            yield replace(message, tool_calls=calls) if message.role == ASSISTANT else message


def _id(call: ToolCall, form: IdForm, index: int) -> str:
    if form is IdForm.NAMED:
        return f"functions.{call.name}:{index}"
    if form is IdForm.NINE and not _NINE.fullmatch(call.id):
        digest = hashlib.sha256(f"{index if not call.id else ''}{call.id}".encode()).digest()
        return "".join(_ID_CHARACTERS[byte % len(_ID_CHARACTERS)] for byte in digest[:9])
    return call.id or f"call_{index}"
