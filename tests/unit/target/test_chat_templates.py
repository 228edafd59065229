"""Which template a chat is rendered by, and what becomes of templates that are none."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from outrider.v1 import target_pb2
from services.engine.model.model import Model
from services.engine.model.vocabulary import Vocabulary
from services.engine.scheduling.engine import Engine
from services.frame.rpc.errors import ServiceError
from services.target.application import TargetApplication
from services.target.chat import ChatError
from services.target.chat_templates import ChatTemplates
from services.target.settings import TargetSettings
from tests.foreign_models import llama
from tests.unit.engine.fakes import FakeRuntime
from tests.unit.target.chats import tokenizer
from tests.unit.target.fakes import fake_target


def test_templates_by_name(vocabulary: Vocabulary) -> None:
    templates = ChatTemplates({"": "usual", "tool_use": "tools", "rag": "{% if %}"}, vocabulary)
    assert templates.choose("", has_tools=False).source == "usual"
    assert templates.choose("", has_tools=True).source == "tools"
    assert templates.choose("tool_use", has_tools=False).source == "tools"
    with pytest.raises(ChatError, match="not valid"):
        templates.choose("rag", has_tools=False)
    with pytest.raises(ChatError, match="no chat template called other, its named ones are: tool_use"):
        templates.choose("other", has_tools=False)
    with pytest.raises(ChatError, match="name one of its templates: tool_use"):
        ChatTemplates({"tool_use": "tools"}, vocabulary).choose("", has_tools=False)


def test_named_templates_of_a_file(tmp_path: Path) -> None:
    fields = {"chat_template": "usual", "chat_template.tool_use": "tools"}
    model = Model(llama(tmp_path / "model.gguf", tokenizer=tokenizer(**fields)))
    assert model.chat_templates == {"": "usual", "tool_use": "tools"}
    model.close()


INVALID = {
    "open block": "{% if true %}",
    "unknown tag": "{% quux %}",
    "unknown filter": "{{ messages | quux }}",
    "deep": "{% if true %}" * 200 + "{% endif %}" * 200,
}


@pytest.mark.parametrize("name", INVALID)
def test_a_broken_template_refuses_chats_and_nothing_else(tmp_path: Path, name: str) -> None:
    path = llama(tmp_path / "model.gguf", tokenizer=tokenizer(chat_template=INVALID[name]))
    model = Model(path)
    TargetApplication(TargetSettings(model=path, exact="off")).on_loaded(model)
    templates = ChatTemplates(model.chat_templates, model.vocabulary)
    assert not templates.has_usual
    with pytest.raises(ChatError) as refused:
        templates.choose("", has_tools=False)
    sentence = str(refused.value)
    assert sentence.startswith("the model's chat template is not valid: ")
    assert len(sentence.splitlines()) == 1
    model.close()


async def test_a_model_without_a_template_says_so() -> None:
    runtime = FakeRuntime()
    servicer = fake_target(Engine(runtime), runtime)
    request = target_pb2.ApplyChatTemplateRequest(messages=[target_pb2.ChatMessage(role="user", content="hello")])
    call: Any = None
    with pytest.raises(ServiceError, match="no chat template") as refused:
        await servicer.ApplyChatTemplate(request, call)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CHAT_TEMPLATE")
