"""Chats with tools through the whole system: what a model writes, here by a script, comes back as calls."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from gguf import GGUFValueType
from gguf.gguf_writer import GGUFValue

from orchestrator.generation.answer import AnswerParts
from outrider.v1 import generation_pb2, model_pb2, model_pb2_grpc, target_pb2, target_pb2_grpc
from services.engine.runtime.interface import Logits, Runtime, Segment
from services.engine.startup.model_service import LoadedModel
from services.frame.server import FrameServer
from services.target.application import TargetApplication
from services.target.settings import TargetSettings
from tests.foreign_models import llama, tiny_tokenizer
from tests.integration.asking import reason_of, unary_error
from tests.integration.services import (
    ENGINE_SETTINGS,
    Client,
    Generated,
    client_of,
    generate_request,
    orchestrator_server,
)
from tests.unit.orchestrator.generation.tool_answers import Whole

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}#{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": '
    "{% if call.function.arguments is string %}{{ call.function.arguments }}{% else %}"
    "{{ call.function.arguments | tojson }}{% endif %}}\n</tool_call>{% endfor %}#\n{% endfor %}"
    "{% if add_generation_prompt %}#assistant\n{% endif %}"
)
NO_TOOLS = "{% for message in messages %}{{ message.content }}{% endfor %}"
TOOL = target_pb2.Tool(name="weather", description="Tells it.", parameters='{"properties": {"place": {}}}')
CALL = '<tool_call>\n{"name": "weather", "arguments": {"place":  "Graz"}}\n</tool_call>'


class ScriptedRuntime:
    """Lets a model say what a test wants, from the end of any prompt on."""

    def __init__(self, inner: Runtime) -> None:
        self._inner = inner
        # What comes at each position.
        self.script: dict[int, int] = {}
        self.num_rows = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def decode(self, segments: Sequence[Segment]) -> list[Logits]:
        self.num_rows += sum(len(segment.tokens) for segment in segments)
        logits = self._inner.decode(segments)
        for segment, rows in zip(segments, logits, strict=True):
            first = segment.first_position + len(segment.tokens) - segment.num_outputs + 1
            for index, row in enumerate(rows):
                if (token := self.script.get(first + index)) is not None:
                    row[:] = np.where(np.arange(len(row)) == token, 100.0, row)
        return logits


class ScriptedTarget(TargetApplication):
    """A target whose model says what a test wants."""

    runtime: ScriptedRuntime

    def make_runtime(self, loaded: LoadedModel) -> Runtime:
        self.runtime = ScriptedRuntime(super().make_runtime(loaded))
        return self.runtime  # type: ignore[return-value]


@dataclass
class System:
    """A client, the target's texts, and what its model says."""

    client: Client
    target: target_pb2_grpc.TargetServiceStub
    runtime: ScriptedRuntime
    end: int

    async def generate(self, answer: str, *, ends: bool = True, **fields: Any) -> Generated:
        """Return what becomes of a chat to which the model says this, and ends."""
        request = generate_request(**fields)
        rendered = await self.target.ApplyChatTemplate(
            target_pb2.ApplyChatTemplateRequest(
                messages=request.chat.messages,
                tools=request.chat.tools,
                add_generation_prompt=not request.chat.continue_final_message,
                continue_final_message=request.chat.continue_final_message,
            )
        )
        tokens = (await self.target.Tokenize(target_pb2.TokenizeRequest(text=answer))).tokens
        said = [*tokens, self.end] if ends else tokens
        self.runtime.script = dict(enumerate(said, len(rendered.tokens)))
        return await self.client.generate(**fields)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    templates = {"chat_template": TEMPLATE, "chat_template.plain": NO_TOOLS}
    fields = {f"tokenizer.{name}": GGUFValue(text, GGUFValueType.STRING) for name, text in templates.items()}
    path: Path = llama(tmp_path_factory.mktemp("tools") / "model.gguf", tokenizer=tiny_tokenizer() | fields)
    values = TargetSettings(**{"model": path, "port": 0, "exact": "off", **ENGINE_SETTINGS, "context": 1024})
    application = ScriptedTarget(values)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(FrameServer(values, application))
        orchestrator = await stack.enter_async_context(orchestrator_server(target.address))
        client = await stack.enter_async_context(client_of(orchestrator))
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(target.address))
        info = (await model_pb2_grpc.ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest())).model
        stub = target_pb2_grpc.TargetServiceStub(channel)
        yield System(client, stub, application.runtime, info.end_of_generation_tokens[0])


def chat(*messages: target_pb2.ChatMessage, **fields: Any) -> generation_pb2.ChatPrompt:
    asked = target_pb2.ChatMessage(role="user", content="How is the weather?")
    return generation_pb2.ChatPrompt(messages=[asked, *messages], **{"tools": [TOOL]} | fields)


def whole(generated: Generated) -> Whole:
    told = Whole()
    for chunk in generated.chunks:
        told.add(AnswerParts(chunk.content, chunk.reasoning, chunk.tool_calls))
    return told


async def test_a_call_and_what_comes_of_it(system: System) -> None:
    generated = await system.generate(f"Let me see.\n{CALL}", chat=chat(), max_tokens=200)
    told = whole(generated)
    assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_TOOL_CALLS
    assert (told.content, told.meant) == ("Let me see.", [("weather", {"place": "Graz"})])
    # As it was written.
    name, arguments = told.calls[0]
    assert arguments == '{"place":  "Graz"}'
    calls = [target_pb2.ToolCall(id=told.ids[0], name=name, arguments=arguments)]
    answered = target_pb2.ChatMessage(role="assistant", content=told.content + "\n", tool_calls=calls)
    result = target_pb2.ChatMessage(role="tool", content="rain", tool_call_id=told.ids[0])
    usage = generated.summary.usage
    num_rows = system.runtime.num_rows
    generated = await system.generate("It rains.", chat=chat(answered, result), max_tokens=200)
    assert whole(generated).content == "It rains."
    assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_END_OF_GENERATION
    # Nothing is evaluated again, as the template is given the arguments as they were written.
    num_new = system.runtime.num_rows - num_rows - (generated.summary.usage.num_generated_tokens - 1)
    held = usage.num_prompt_tokens + usage.num_generated_tokens - 1
    assert num_new == generated.summary.usage.num_prompt_tokens - held


async def test_a_call_that_is_cut_off_is_content(system: System) -> None:
    generated = await system.generate(CALL, chat=chat(), max_tokens=20)
    told = whole(generated)
    assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_MAX_TOKENS
    assert told.content == generated.text != ""
    assert not told.calls


async def test_without_tools_nothing_is_read(system: System) -> None:
    generated = await system.generate(CALL, chat=chat(tools=[]), max_tokens=200)
    assert whole(generated).content == generated.text == CALL
    assert generated.summary.finish_reason == generation_pb2.FINISH_REASON_END_OF_GENERATION


async def test_an_answer_that_goes_on(system: System) -> None:
    begun = target_pb2.ChatMessage(role="assistant", content="It is ")
    prompt = chat(begun, continue_final_message=True)
    generated = await system.generate("fine.", chat=prompt, max_tokens=50)
    assert whole(generated).content == "fine."
    rendered = await system.target.ApplyChatTemplate(
        target_pb2.ApplyChatTemplateRequest(messages=prompt.messages, continue_final_message=True)
    )
    assert rendered.text.endswith("#assistant\nIt is ")


def called(arguments: str) -> target_pb2.ChatMessage:
    return target_pb2.ChatMessage(
        role="assistant", tool_calls=[target_pb2.ToolCall(name="weather", arguments=arguments)]
    )


@dataclass(frozen=True)
class Refusal:
    """A chat that is refused, with which status and about which field."""

    prompt: generation_pb2.ChatPrompt
    code: grpc.StatusCode
    reason: str
    path: str = ""
    sentence: str = ""


REFUSED = {
    "tools that the template does not show": Refusal(
        chat(template_name="plain"),
        grpc.StatusCode.FAILED_PRECONDITION,
        "CHAT_TEMPLATE",
        sentence="the model's chat template has no place for tools",
    ),
    "calls that it does not show": Refusal(
        chat(called("{}"), template_name="plain", tools=[]),
        grpc.StatusCode.FAILED_PRECONDITION,
        "CHAT_TEMPLATE",
        sentence="the model's chat template has no place for the tool calls of an assistant",
    ),
    "a schema that is none": Refusal(
        chat(tools=[target_pb2.Tool(name="f", parameters="[")]),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "chat.tools[0].parameters",
    ),
    "arguments that are none": Refusal(
        chat(called('{"a"')),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "chat.messages[1].tool_calls[0].arguments",
    ),
    "nothing to go on with": Refusal(
        chat(continue_final_message=True),
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
        "chat.continue_final_message",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_refusals(system: System, name: str) -> None:
    refusal = REFUSED[name]

    async def ask() -> None:
        async for _ in system.client.stub.Generate(generate_request(chat=refusal.prompt)):
            pass

    status = await unary_error(ask())
    assert (status.code, reason_of(status)) == (refusal.code.value[0], refusal.reason)
    assert refusal.path in str(status.details)
    assert refusal.sentence in status.message
