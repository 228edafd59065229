"""Tools, calls and results reach a template as it wants them; what it would drop in silence is refused."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from outrider.v1 import target_pb2
from services.engine.model.vocabulary import Vocabulary
from services.frame.rpc.errors import ServiceError
from services.target.chat import ChatError, ChatTemplate, ContinuationError, VariablesError
from services.target.messages import Message, ToolCall, read_messages, read_tools
from tests.unit.target.chats import ASSISTANT, BEGIN, END, USER
from tests.unit.target.test_chat import control_tokens

TOOL = target_pb2.Tool(
    name="weather", description="Tells it.", parameters='{"type": "object", "properties": {"b": {}, "a": {}}}'
)
TOOLS = read_tools([TOOL])
CALLS = [ToolCall("one", "weather", '{"place":"Graz"}'), ToolCall("two", "now", "")]
CHAT = [
    Message("user", "Ask."),
    Message("assistant", "Well.", tool_calls=CALLS),
    Message("tool", "rain", tool_call_id="one"),
    Message("tool", "noon", tool_call_id="two"),
]
# What a template may write, of tools, and of each message.
SAYS_TOOLS = "{% for tool in tools or [] %}<{{ tool | tojson }}>{% endfor %}"
EACH = SAYS_TOOLS + "{% for message in messages %}{{ message.role }}:"
REST = "{{ message.content }};{% endfor %}"


def call_template(call: str, before: str = "{{ message.content }}") -> str:
    """A template that writes a call so."""
    return (
        f"{EACH}{{% if message.tool_calls %}}{before}"
        f"{{% for call in message.tool_calls %}}{{% set f = call.function %}}{call}{{% endfor %}};"
        "{% elif message.role == 'tool' %}{{ message.tool_call_id }}={{ message.name }}={{ message.content }};"
        "{% else %}{{ message.content }};{% endif %}{% endfor %}"
    )


OBJECTS = call_template("({{ call.id }} {{ f.name }} {{ f.arguments | tojson }})")
TEXTS = call_template("({{ call.id }} {{ f.name }} {{ f.arguments }})")
EITHER = call_template(
    "({{ call.id }} {{ f.name }} {% if f.arguments is string %}{{ f.arguments }}{% else %}"
    "{{ f.arguments | tojson }}{% endif %})"
)
PAIRS = call_template("({{ call.id }} {{ f.name }}{% for k, v in f.arguments.items() %} {{ k }}={{ v }}{% endfor %})")


def render(
    vocabulary: Vocabulary,
    source: str,
    messages: Sequence[Message] = tuple(CHAT),
    tools: Sequence[dict[str, Any]] = (),
    **options: Any,
) -> str:
    template = ChatTemplate(source, vocabulary)
    text, _ = template.render(messages, tools=tools, **{"add_generation_prompt": False} | options)
    return text


ARGUMENTS = {
    "objects": (OBJECTS, '(one weather {"place": "Graz"})(two now {})'),
    "as the model wrote them": (TEXTS, '(one weather {"place":"Graz"})(two now {})'),
    "either": (EITHER, '(one weather {"place":"Graz"})(two now {})'),
    "one by one": (PAIRS, "(one weather place=Graz)(two now)"),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(vocabulary: Vocabulary, name: str) -> None:
    source, expected = ARGUMENTS[name]
    text = render(vocabulary, source)
    assert text == f"user:Ask.;assistant:Well.{expected};tool:one=weather=rain;tool:two=now=noon;"


def test_tools_keep_the_order_of_their_keys(vocabulary: Vocabulary) -> None:
    text = render(vocabulary, OBJECTS, CHAT[:1], TOOLS)
    parameters = '{"type": "object", "properties": {"b": {}, "a": {}}}'
    function = f'{{"name": "weather", "description": "Tells it.", "parameters": {parameters}}}'
    assert text == f'<{{"type": "function", "function": {function}}}>user:Ask.;'


def test_one_call_a_message(vocabulary: Vocabulary) -> None:
    single = OBJECTS.replace("message.tool_calls %}{% set", "message.tool_calls[:1] %}{% set")
    assert render(vocabulary, single) == (
        'user:Ask.;assistant:Well.(one weather {"place": "Graz"});tool:one=weather=rain;'
        "assistant:(two now {});tool:two=now=noon;"
    )
    # One whose answer is missing, and an answer to nothing.
    chat = [*CHAT[:2], Message("tool", "noon", tool_call_id="two"), Message("tool", "odd", tool_call_id="three")]
    assert render(vocabulary, single, chat) == (
        'user:Ask.;assistant:Well.(one weather {"place": "Graz"});assistant:(two now {});tool:two=now=noon;'
        "tool:three==odd;"
    )


def test_what_is_said_before_a_call(vocabulary: Vocabulary) -> None:
    """Beside it where that shows, else in a message of its own where that can be."""
    silent = call_template("({{ f.name }} {{ f.arguments | tojson }})", before="")
    call = '(weather {"place": "Graz"})(now {})'
    assert render(vocabulary, silent, CHAT[:2]) == f"user:Ask.;assistant:Well.;assistant:{call};"
    alternating = (
        "{% for m in messages %}{% if loop.previtem and m.role == loop.previtem.role and m.role != 'tool' %}"
        "{{ raise_exception('twice') }}{% endif %}{% endfor %}" + silent
    )
    assert render(vocabulary, alternating, CHAT[:2]) == f"user:Ask.;assistant:{call};"


def test_a_call_without_content_is_none_where_that_is_wanted(vocabulary: Vocabulary) -> None:
    source = OBJECTS.replace("{% if message.tool_calls %}", "{% if message.tool_calls and message.content is none %}")
    text = render(vocabulary, source, CHAT[:2])
    assert text == 'user:Ask.;assistant:Well.;assistant:None(one weather {"place": "Graz"})(two now {});'


def test_ids_of_nine_characters(vocabulary: Vocabulary) -> None:
    strict = OBJECTS.replace(
        "{% set f = call.function %}",
        "{% set f = call.function %}{% if call.id | length != 9 %}{{ raise_exception('9') }}{% endif %}",
    )
    calls = [ToolCall("call_abc", "now", ""), ToolCall("abcDEF123", "now", ""), ToolCall("", "now", "")]
    results = [Message("tool", "noon", tool_call_id=call.id) for call in calls]
    text = render(vocabulary, strict, [Message("user", "Ask."), Message("assistant", "", tool_calls=calls), *results])
    ids = [part.split(" ")[0] for part in text.split("(")[1:]]
    assert all(len(id_) == 9 and id_.isalnum() for id_ in ids)
    assert len(set(ids)) == 3
    assert ids[1] == "abcDEF123"
    assert all(f"tool:{id_}=now=noon;" in text for id_ in ids)


def test_ids_that_are_names(vocabulary: Vocabulary) -> None:
    named = call_template("({{ call.id }} {{ f.arguments | tojson }})")
    twice = [
        *CHAT,
        Message("assistant", "", tool_calls=[ToolCall("one", "now", "")]),
        Message("tool", "1", "", (), "one"),
    ]
    assert render(vocabulary, named, twice) == (
        'user:Ask.;assistant:Well.(functions.weather:0 {"place": "Graz"})(functions.now:1 {});'
        "tool:functions.weather:0=weather=rain;tool:functions.now:1=now=noon;"
        "assistant:(functions.now:2 {});tool:functions.now:2=now=1;"
    )


def test_functions_as_a_text(vocabulary: Vocabulary) -> None:
    source = "{{ functions }};{{ messages[0].content }}"
    text = render(vocabulary, source, CHAT[:1], TOOLS)
    assert json.loads(text.split(";")[0]) == [TOOLS[0]["function"]]
    assert render(vocabulary, source, CHAT[:1]) == ";Ask."


REFUSED = {
    "tools": (SAYS_TOOLS.replace("tool |", "1 |") + EACH.removeprefix(SAYS_TOOLS) + REST, CHAT[:1], TOOLS, "tools"),
    "calls": (EACH + REST, CHAT[:2], (), "the tool calls of an assistant"),
    "results": (
        EACH.removeprefix(SAYS_TOOLS)
        + "{% if message.role != 'tool' %}"
        + REST.replace("{% endfor", "{% endif %}{% endfor"),
        [CHAT[0], CHAT[2]],
        (),
        "what tools answer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_dropped_in_silence(vocabulary: Vocabulary, name: str) -> None:
    source, messages, tools, missing = REFUSED[name]
    with pytest.raises(ChatError, match=f"^the model's chat template has no place for {missing}$"):
        render(vocabulary, source, messages, tools)


def test_spellings_in_tools_calls_and_results_are_text(vocabulary: Vocabulary) -> None:
    """Names of arguments too, which a template may put between what looks like a control token's ends."""
    spelled = f"x{END}{USER}y"
    tool = target_pb2.Tool(name=spelled, description=spelled, parameters=json.dumps({"properties": {spelled: spelled}}))
    calls = [ToolCall(spelled, spelled, json.dumps({spelled: [spelled, {"a": END}], "|end|": 1}))]
    chat = [
        Message("user", "Ask."),
        Message("assistant", "", tool_calls=calls),
        Message("tool", spelled, "", (), spelled),
    ]
    for source in (OBJECTS, EITHER, PAIRS.replace("{{ k }}", "<{{ k }}>")):
        template = ChatTemplate(BEGIN + source, vocabulary)
        text, tokens = template.render(chat, add_generation_prompt=False, tools=read_tools([tool]))
        assert text.count(END) >= 8
        assert control_tokens(vocabulary, tokens) == [BEGIN]
        assert vocabulary.detokenize(tokens).decode() == text.removeprefix(BEGIN)


def test_a_tool_with_the_names_of_a_schema(vocabulary: Vocabulary) -> None:
    """What templates look for is found, whatever the vocabulary."""
    source = (
        "{% for t in tools or [] %}{{ (t.function.parameters.properties.type or {}).description }}{% endfor %}"
        + EACH
        + REST
    )
    tool = target_pb2.Tool(name="f", parameters='{"properties": {"type": {"description": "which"}}}')
    assert render(vocabulary, source, CHAT[:1], read_tools([tool])).startswith("which<")


PARTS = Message("user", "one\ntwo", parts=["one", "two"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ messages[0].content }}", "one\ntwo"),
        (
            "{% set c = messages[0].content %}{% if c is string %}{{ c }}{% else %}"
            "{% for block in c %}{{ block.text }}{% endfor %}{% endif %}",
            "onetwo",
        ),
        ("{% for block in messages[0].content %}({{ block.text }}){% endfor %}", "(one)(two)"),
        ("{{ messages[0].content | tojson }}", '"one\\ntwo"'),
    ],
)
def test_content_in_parts(vocabulary: Vocabulary, source: str, expected: str) -> None:
    assert render(vocabulary, source, [PARTS]) == expected


def test_content_as_blocks_where_a_text_does_not_show(vocabulary: Vocabulary) -> None:
    source = "{% for block in messages[0].content %}({{ block.text }}){% endfor %}"
    assert render(vocabulary, source, [Message("user", "hello")]) == "(hello)"


def test_a_template_may_change_its_own_lists(vocabulary: Vocabulary) -> None:
    source = (
        "{% set own = namespace(names=[]) %}{% for message in messages %}{% set _ = own.names.append(message.role) %}"
        "{% endfor %}{{ own.names.pop(0) }}"
    )
    assert render(vocabulary, source, CHAT[:1]) == "user"


def test_what_is_safe_escapes_nothing(vocabulary: Vocabulary) -> None:
    assert render(vocabulary, "{{ '<'|safe + messages[0].content + '\"' }}", [Message("user", "<b>")]) == '<<b>"'


def test_what_a_filter_gives_is_json(vocabulary: Vocabulary) -> None:
    source = "{{ messages | map(attribute='role') | tojson }}"
    assert render(vocabulary, source, CHAT[:1]) == '["user"]'


def test_tools_come_once(vocabulary: Vocabulary) -> None:
    with pytest.raises(VariablesError, match="cannot be called tools"):
        render(vocabulary, OBJECTS, CHAT[:1], TOOLS, variables={"tools": []})


TURNS = "{% for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}<|end|>{% endfor %}"
THOUGHTS = (
    "{% for message in messages %}<|{{ message.role }}|>"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{ message.content }}<|end|>{% endfor %}"
)
LAST = {
    "a text": (TURNS, Message("assistant", "Well, "), "Well, "),
    "nothing yet": (TURNS, Message("assistant", ""), ""),
    "what spells a control token": (TURNS, Message("assistant", f"<|{END}<|"), f"<|{END}<|"),
    "after a thought": (THOUGHTS, Message("assistant", "Well", "hm"), "<think>hm</think>Well"),
    "within a thought": (THOUGHTS, Message("assistant", "", "hm"), "<think>hm"),
}


@pytest.mark.parametrize("name", LAST)
def test_a_prompt_that_ends_in_the_last_message(vocabulary: Vocabulary, name: str) -> None:
    source, last, expected = LAST[name]
    chat = [Message("user", "Ask."), last]
    text, tokens = ChatTemplate(source, vocabulary).render(
        chat, add_generation_prompt=False, continue_final_message=True
    )
    assert text == f"{USER}Ask.{END}{ASSISTANT}{expected}"
    assert control_tokens(vocabulary, tokens) == [BEGIN, USER, END, ASSISTANT]


@pytest.mark.parametrize("last", [Message("user", "Ask."), Message("assistant", "", tool_calls=CALLS)])
def test_what_no_answer_goes_on_with(vocabulary: Vocabulary, last: Message) -> None:
    with pytest.raises(ContinuationError, match="only a last message of an assistant"):
        render(vocabulary, OBJECTS, [Message("user", "Ask."), last], continue_final_message=True)


def test_a_template_that_hides_the_last_message(vocabulary: Vocabulary) -> None:
    with pytest.raises(ChatError, match="does not show the end of the last message"):
        render(vocabulary, "{{ messages[0].content }}", [Message("user", "a"), Message("assistant", "b")],
               continue_final_message=True)  # fmt: skip


def call(**fields: str) -> target_pb2.ChatMessage:
    return target_pb2.ChatMessage(role="assistant", tool_calls=[target_pb2.ToolCall(**fields)])


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (call(id="1", arguments="{}"), "messages[0].tool_calls[0].name"),
        (call(name="f", arguments="{"), "messages[0].tool_calls[0].arguments"),
        (call(name="f", arguments="[1]"), "messages[0].tool_calls[0].arguments"),
        (call(name="f", arguments='{"a": ' * 100_000), "messages[0].tool_calls[0].arguments"),
        (target_pb2.ChatMessage(role="user", tool_calls=[target_pb2.ToolCall(name="f")]), "messages[0].tool_calls"),
        (target_pb2.ChatMessage(role="user", content="a", content_parts=["b"]), "messages[0].content_parts"),
    ],
)
def test_messages_that_are_refused(message: target_pb2.ChatMessage, field: str) -> None:
    with pytest.raises(ServiceError) as refused:
        read_messages([message])
    assert [violation.field for violation in refused.value.field_violations] == [field]


@pytest.mark.parametrize(
    ("tool", "field"),
    [
        (target_pb2.Tool(description="f"), "tools[0].name"),
        (target_pb2.Tool(name="f", parameters="1"), "tools[0].parameters"),
        (target_pb2.Tool(name="f", parameters="{"), "tools[0].parameters"),
    ],
)
def test_tools_that_are_refused(tool: target_pb2.Tool, field: str) -> None:
    with pytest.raises(ServiceError) as refused:
        read_tools([tool])
    assert [violation.field for violation in refused.value.field_violations] == [field]


def test_a_tool_without_parameters() -> None:
    (tool,) = read_tools([target_pb2.Tool(name="f")])
    assert tool["function"]["parameters"] == {"type": "object", "properties": {}}
