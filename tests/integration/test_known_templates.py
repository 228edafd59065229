"""Chat templates of known models with tools: nothing of a chat is dropped in silence, and calls can be read back."""

import json
from pathlib import Path

import pytest

from orchestrator.generation.answer import Answer
from outrider.v1 import target_pb2
from services.engine.model.model import Model
from services.engine.model.vocabulary import Vocabulary
from services.target.chat import ChatError, ChatTemplate
from services.target.messages import Message, ToolCall, read_tools
from tests.foreign_models import llama
from tests.integration.source_package import needs_source
from tests.unit.orchestrator.generation.tool_answers import whole

pytestmark = [pytest.mark.integration, needs_source]

TOOL = target_pb2.Tool(
    name="get_weather",
    description="Tells the weather.",
    parameters=json.dumps(
        {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Where?"},
                "num_days": {"type": "integer", "description": "How many?"},
            },
            "required": ["place"],
        }
    ),
)
TOOLS = [TOOL]
ARGUMENTS = [{"place": "Graz", "num_days": 2}, {"place": "Oslo"}]
CALLS = [ToolCall(f"call_{i}", "get_weather", json.dumps(arguments)) for i, arguments in enumerate(ARGUMENTS)]
CHAT = [
    Message("system", "It rains."),
    Message("user", "Ask for it."),
    Message("assistant", "Let me see.", tool_calls=CALLS),
    Message("tool", "mist in Styria", tool_call_id="call_0"),
    Message("tool", "snow on fjords", tool_call_id="call_1"),
    Message("assistant", "It snows."),
    Message("user", "Thank you."),
]
TOOL_TEXTS = ["Tells the weather.", "Where?"]
TEXTS = [
    *("It rains.", "Ask for it.", "get_weather", "place", "Graz", "num_days", "Oslo", "mist in Styria"),
    *("snow on fjords", "It snows.", "Thank you."),
]
# Templates that say nothing of tools to the model.
NO_TOOLS = {
    "HuggingFaceTB-SmolLM3-3B",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
    "deepseek-ai-DeepSeek-V3.1",
    "google-gemma-2-2b-it",
    "llama-cpp-rwkv-world",
    "microsoft-Phi-3.5-mini-instruct",
}
# Those that do, and drop calls of an assistant.
NO_CALLS = {"LFM2-8B-A1B", "LFM2.5-Instruct", "ibm-granite-granite-3.3-2B-Instruct"}
# They show one of two: what is said, or the calls that come with it. gpt-oss takes it for a thought, and forgets it.
SAYS_NOTHING_BESIDE = {
    "Mistral-Small-3.2-24B-Instruct-2506",
    "mistralai-Mistral-Nemo-Instruct-2407",
    "openai-gpt-oss-120b",
}
# Formats of calls that are not read: no JSON in them, or nothing around it.
UNREAD = {
    "Apertus-8B-Instruct",
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "GigaChat3-10B-A1.8B",
    "Kimi-K3",
    "LFM2.5-8B-A1B",
    "MiniMax-M3",
    "google-gemma-4-31B-it",
    "google-gemma-4-31B-it-interleaved",
    "meetkai-functionary-medium-v3.2",
    "upstage-Solar-Open-100B",
}
# Of two calls they show one in each message.
ONE_BY_ONE = {
    "GigaChat3.1-10B-A1.8B",
    "meta-llama-Llama-3.1-8B-Instruct",
    "meta-llama-Llama-3.2-3B-Instruct",
    "meta-llama-Llama-3.3-70B-Instruct",
    "openai-gpt-oss-120b",
}


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return Model(llama(tmp_path_factory.mktemp("templates") / "model.gguf")).vocabulary


@pytest.fixture(scope="module")
def templates(source: Path, vocabulary: Vocabulary) -> dict[str, ChatTemplate]:
    """All of them, by name."""
    paths = sorted(source.glob("templates/*.jinja"))
    assert len(paths) >= 69
    return {path.stem: ChatTemplate(path.read_text(), vocabulary) for path in paths}


def test_all_of_a_chat_with_tools_shows(templates: dict[str, ChatTemplate], subtests: pytest.Subtests) -> None:
    for name, template in templates.items():
        with subtests.test(name):
            if name in NO_TOOLS | NO_CALLS:
                missing = "tools" if name in NO_TOOLS else "the tool calls of an assistant"
                with pytest.raises(ChatError, match=f"chat template has no place for {missing}"):
                    template.render(CHAT, add_generation_prompt=True, tools=read_tools(TOOLS))
                continue
            text, _ = template.render(CHAT, add_generation_prompt=True, tools=read_tools(TOOLS))
            beside = [] if name in SAYS_NOTHING_BESIDE else ["Let me see."]
            assert [wanted for wanted in (*TEXTS, *TOOL_TEXTS, *beside) if wanted not in text] == []
            # What the calls are is no Python, nor JSON within JSON.
            assert "'place': 'Graz'" not in text
            assert '\\"place' not in text


def test_without_tools_none_show(templates: dict[str, ChatTemplate], subtests: pytest.Subtests) -> None:
    for name, template in templates.items():
        with subtests.test(name):
            # Gemma 2 knows no system.
            text, _ = template.render(CHAT[1:2], add_generation_prompt=True)
            assert not any(wanted in text for wanted in (*TOOL_TEXTS, "get_weather"))


def test_calls_are_read_as_the_template_writes_them(
    templates: dict[str, ChatTemplate], subtests: pytest.Subtests
) -> None:
    for name, template in templates.items():
        if name in NO_TOOLS | NO_CALLS | UNREAD:
            continue
        with subtests.test(name):
            called = [Message("user", "Ask for it."), Message("assistant", "", tool_calls=CALLS), *CHAT[3:5]]
            text, _ = template.render(called, add_generation_prompt=False, tools=read_tools(TOOLS))
            written = text[text.rindex("Ask for it.") : text.index("mist in Styria")]
            form = target_pb2.AnswerFormat(
                first=target_pb2.ANSWER_PART_FRAME if "functions." in written else target_pb2.ANSWER_PART_CONTENT,
                tool_calls=template.tool_call_formats,
            )
            # What nothing opens is the whole of an answer.
            if not form.tool_calls[0].opens and not form.tool_calls[0].call_opens:
                written = written[written.index("{") :]
            told = whole(Answer(form, tools=TOOLS), written)
            expected = [("get_weather", arguments) for arguments in ARGUMENTS]
            assert told.meant == (expected[:1] if name in ONE_BY_ONE else expected)


def test_formats_that_are_not_read(templates: dict[str, ChatTemplate]) -> None:
    unread = {name for name, template in templates.items() if not template.tool_call_formats}
    assert unread - NO_TOOLS - NO_CALLS == UNREAD


@pytest.mark.parametrize("said", ["Well, I <|x ", "Well"])
def test_an_answer_goes_on_with_the_last_message(
    templates: dict[str, ChatTemplate], subtests: pytest.Subtests, said: str
) -> None:
    chat = [Message("user", "Ask for it."), Message("assistant", said)]
    for name, template in templates.items():
        with subtests.test(name):
            text, _ = template.render(chat, add_generation_prompt=False, continue_final_message=True)
            assert text.endswith(said)
            assert "Ask for it." in text


def test_results_are_linked_to_calls(templates: dict[str, ChatTemplate]) -> None:
    """Ids are those that the model's own calls have, where the template has a form for them."""
    for name in ("Kimi-K2-Instruct", "Kimi-K2-Thinking", "moonshotai-Kimi-K2"):
        text, _ = templates[name].render(CHAT, add_generation_prompt=True, tools=read_tools(TOOLS))
        assert all(text.count(f"functions.get_weather:{index}") == 2 for index in (0, 1)), name
    nemo = templates["mistralai-Mistral-Nemo-Instruct-2407"]
    text, _ = nemo.render(CHAT[:5], add_generation_prompt=True, tools=read_tools(TOOLS))
    first = json.loads(text[text.index("[{", text.index("[TOOL_CALLS]")) :].split("]")[0] + "]")[0]["id"]
    assert len(first) == 9
    assert text.count(first) == 2
