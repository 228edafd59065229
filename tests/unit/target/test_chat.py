"""Chats become prompts by the model's own template, and nothing that a message says becomes a control token."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

from services.engine.model.model import Model
from services.engine.model.vocabulary import Attribute, Vocabulary
from services.target.chat import ChatError, ChatTemplate, VariablesError
from services.target.messages import Message
from tests.foreign_models import llama
from tests.unit.target.chats import ASSISTANT, AWKWARD, BEGIN, END, UNKNOWN, USER, tokenizer

TEMPLATE = """\
{{ bos_token }}{% for message in messages %}
<|{{ message.role }}|>
{{ message.content }}<|end|>
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}"""
# Turns of user and assistant, as many models want them, and no system.
ALTERNATING = """\
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{% endif %}
{{ message['content'] }}
{% endfor %}"""


def message(content: str, role: str = "user", reasoning: str = "") -> Message:
    return Message(role, content, reasoning)


def render(vocabulary: Vocabulary, source: str, *messages: Message, is_open: bool = False) -> str:
    text, _ = ChatTemplate(source, vocabulary).render(messages, add_generation_prompt=is_open)
    return text


def control_tokens(vocabulary: Vocabulary, tokens: Sequence[int]) -> list[str]:
    """The spellings of the control tokens among these."""
    entries = [vocabulary.entries[token] for token in tokens]
    return [entry.spelling.decode() for entry in entries if entry.attribute in (Attribute.CONTROL, Attribute.UNKNOWN)]


SPELLINGS = [BEGIN, END, USER, ASSISTANT, *AWKWARD, UNKNOWN]
# Whole spellings, parts of them, and ordinary text, so that they meet in all ways.
contents = st.lists(st.sampled_from([*SPELLINGS, "<", "|", ">", "<|", "end", "|>", "é", "a word ", "\n"]), max_size=12)


def test_the_spellings_are_those_of_control_tokens(vocabulary: Vocabulary) -> None:
    """Or else the test below would show nothing."""
    for spelling in SPELLINGS:
        tokens = vocabulary.tokenize(spelling, add_bos=False, parse_special=True)
        assert control_tokens(vocabulary, tokens) == [spelling]


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), contents.map("".join)), min_size=1, max_size=3))
def test_no_message_spells_a_control_token(vocabulary: Vocabulary, chat: list[tuple[str, str]]) -> None:
    messages = [message(content, role) for role, content in chat]
    text, tokens = ChatTemplate(TEMPLATE, vocabulary).render(messages, add_generation_prompt=True)
    plain = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    assert text == plain.render(messages=[*map(asdict, messages)], bos_token=BEGIN, add_generation_prompt=True)
    turns = [spelling for role, _ in chat for spelling in (f"<|{role}|>", END)]
    assert control_tokens(vocabulary, tokens) == [BEGIN, *turns, ASSISTANT]
    said = "".join(f"\n{content}\n" for _, content in chat)
    assert vocabulary.detokenize(tokens).decode() == said


@pytest.mark.parametrize("content", ["<", "<|", "x<", "|>", "end|>"])
def test_a_message_and_the_template_spell_no_control_token_together(vocabulary: Vocabulary, content: str) -> None:
    source = "<{{ messages[0].content }}<|end|>"
    text, tokens = ChatTemplate(source, vocabulary).render([message(content)], add_generation_prompt=False)
    assert text == f"<{content}<|end|>"
    assert control_tokens(vocabulary, tokens) == [BEGIN, END]


def test_a_role_spells_no_control_token_either(vocabulary: Vocabulary) -> None:
    source = "{{ messages[0].role }}: {{ messages[0].content }}"
    text, tokens = ChatTemplate(source, vocabulary).render([message("hello", f"x{END}")], add_generation_prompt=False)
    assert text == f"x{END}: hello"
    assert control_tokens(vocabulary, tokens) == [BEGIN]


def test_the_mark_that_parts_spellings_cannot_be_smuggled_in(vocabulary: Vocabulary) -> None:
    text, tokens = ChatTemplate("{{ messages[0].content }}", vocabulary).render(
        [message("<\ufdd0|\ufdd1end|>")], add_generation_prompt=False
    )
    assert text == "<\ufffd|\ufffdend|>"
    assert vocabulary.detokenize(tokens).decode() == text


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("source", ["{{ bos_token }}hello", "hello"])
def test_the_first_token_comes_once(tmp_path: Path, adds_bos: bool, source: str) -> None:
    fields = {"ggml.add_bos_token": adds_bos}
    vocabulary = Model(llama(tmp_path / "model.gguf", tokenizer=tokenizer(**fields))).vocabulary
    _, tokens = ChatTemplate(source, vocabulary).render([message("hello")], add_generation_prompt=False)
    expected = [BEGIN] if adds_bos or "bos_token" in source else []
    assert control_tokens(vocabulary, tokens) == expected
    assert vocabulary.detokenize(tokens) == b"hello"


REFUSED = {
    "turns that do not alternate": (ALTERNATING, "Conversation roles must alternate"),
    "several lines": ("{{ raise_exception('one\n two') }}", "one two"),
    "unknown role": ("{{ {'user': 'U'}[messages[0].role].x.y }}", "has no attribute"),
    "no such argument": ("{{ messages[0].content | tojson(nonsense=1) }}", "nonsense"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "no end": ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
    "a look into Python": ("{{ ''.__class__.__mro__ }}", "unsafe"),
    "a change of the chat": ("{{ messages.append(messages[0]) }}", "'append' of 'Given' object is unsafe"),
    "too much": ("{% for i in range(10000000) %}{{ i }}{% endfor %}", "Range too big"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_one_sentence(vocabulary: Vocabulary, name: str) -> None:
    source, reason = REFUSED[name]
    with pytest.raises(ChatError) as refused:
        render(vocabulary, source, message("hello", "assistant"))
    sentence = str(refused.value)
    assert sentence.startswith("the model's chat template refuses this chat: ")
    assert reason in sentence
    assert len(sentence.splitlines()) == 1


def test_turns_that_alternate(vocabulary: Vocabulary) -> None:
    turns = [message("one"), message("two", "assistant"), message("three")]
    assert render(vocabulary, ALTERNATING, *turns).split() == ["one", "two", "three"]


RENDERED = {
    "generation": ("{% generation %}{{ messages[0].content }}{% endgeneration %}!", "Zoë <b>!"),
    "loop controls": ("{% for message in messages %}{{ message.role }}{% break %}{% endfor %}", "user"),
    "JSON": ("{{ messages[0].content | tojson }}", '"Zoë <b>"'),
    "JSON with indent": ("{{ messages[0] | tojson(indent=2) }}", '{\n  "role": "user",\n  "content": "Zoë <b>"\n}'),
    "JSON with separators": (
        "{{ messages[0] | tojson(separators=(',', ':'), sort_keys=true) }}",
        '{"content":"Zoë <b>","role":"user"}',
    ),
    "ASCII JSON": ("{{ messages[0].content | tojson(ensure_ascii=true) }}", '"Zo\\u00eb <b>"'),
    "a date": ("{{ strftime_now('%%') }}", "%"),
    "no tools": ("{{ tools is none }} {{ documents is none }}", "True True"),
    "tools taken for granted": ("{% for tool in tools %}{{ tool }}{% endfor %}none", "none"),
    "functions taken for granted": ("{{ 'none' + functions }}", "none"),
    "whitespace": ("  {% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),
}


@pytest.mark.parametrize("name", RENDERED)
def test_what_templates_rely_on(vocabulary: Vocabulary, name: str) -> None:
    source, expected = RENDERED[name]
    assert render(vocabulary, source, message("Zoë <b>")) == expected


def test_variables_of_a_request(vocabulary: Vocabulary) -> None:
    source = "{{ effort }} {{ tools[0].name }} {{ depth }} {{ messages[0].content }}"
    variables = {"effort": f"low{END}", "tools": [{"name": f"f{USER}"}], "depth": 3}
    text, tokens = ChatTemplate(source, vocabulary).render(
        [message("hello")], add_generation_prompt=False, variables=variables
    )
    assert text == f"low{END} f{USER} 3 hello"
    assert control_tokens(vocabulary, tokens) == [BEGIN]
    with pytest.raises(VariablesError, match="cannot be called messages"):
        ChatTemplate(source, vocabulary).render([], add_generation_prompt=False, variables={"messages": []})


@pytest.mark.parametrize(
    ("source", "role"),
    [("{{ messages[0].role }}", "system"), ("{{ messages[0].role }}{# or developer #}", "developer")],
)
def test_a_developer(vocabulary: Vocabulary, source: str, role: str) -> None:
    assert render(vocabulary, source, message("be brief", "developer")) == role


REASONING = {
    "reasoning_content": ("{{ messages[0].reasoning_content }}: {{ messages[0]['content'] }}", "hm: yes"),
    "thinking": ("{% if 'thinking' in messages[0] %}{{ messages[0].thinking }}{% endif %}", "hm"),
    "none": ("{{ messages[0].content }}", "yes"),
}


@pytest.mark.parametrize("name", REASONING)
def test_reasoning_goes_back_by_the_name_that_the_template_knows(vocabulary: Vocabulary, name: str) -> None:
    source, expected = REASONING[name]
    assert render(vocabulary, source, message("yes", "assistant", "hm")) == expected


BLOCKS = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for block in message['content'] %}{% if block['type'] == 'thinking' %}[THINK]{{ block['thinking'] }}[/THINK]"
    "{% else %}{{ block['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def test_reasoning_goes_back_within_the_content_where_that_has_blocks(vocabulary: Vocabulary) -> None:
    thought = message("yes", "assistant", "hm")
    assert render(vocabulary, BLOCKS, message("a"), thought) == "a[THINK]hm[/THINK]yes"
    assert render(vocabulary, BLOCKS, message("a"), message("", "assistant", "hm")) == "a[THINK]hm[/THINK]"
    assert render(vocabulary, BLOCKS, message("a"), message("yes", "assistant")) == "ayes"


def test_spellings_in_ascii_json(vocabulary: Vocabulary) -> None:
    source = "{{ messages[0].content | tojson(ensure_ascii=true) }}"
    text, tokens = ChatTemplate(source, vocabulary).render([message(f"é{END}{USER}")], add_generation_prompt=False)
    assert text == f'"\\u00e9{END}{USER}"'
    assert control_tokens(vocabulary, tokens) == [BEGIN]
