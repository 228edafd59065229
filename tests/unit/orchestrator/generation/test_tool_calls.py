"""Calls of tools are read from the text of an answer, whatever the pieces in which it comes; nothing of it is lost."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider.v1 import target_pb2
from services.target.answer_format import answer_format
from tests.unit.orchestrator.generation.tool_answers import (
    BARE,
    CODER,
    GLM,
    HERMES,
    MISTRAL,
    MISTRAL_NAMED,
    Whole,
    answer_of,
    whole,
)

CALL = '{"name": "weather", "arguments": {"place": "Graz", "days": 2}}'
MEANT = ("weather", {"place": "Graz", "days": 2})
THINK = answer_format("{{ '<think>' }}{{ '</think>' }}", "")
HARMONY = answer_format("<|channel|><|message|>", "<|start|>assistant")
TO_FUNCTION = [
    target_pb2.ToolCallFormat(opens="to=functions.", name_closes="<|message|>", call_closes="<|call|>"),
    target_pb2.ToolCallFormat(
        opens="<|channel|>commentary to=functions.", name_closes="<|message|>", call_closes="<|call|>"
    ),
]
THOUGHT = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant"
ARGUMENTS = '{"place": "Graz", "days": 2}'

# Formats, answer, what is said, what is called.
Case = tuple[list[target_pb2.ToolCallFormat], str, str, list[tuple[str, Any]]]
CASES: dict[str, Case] = {
    "nothing is called": ([HERMES], "It is 3 < 4 <tool", "It is 3 < 4 <tool", []),
    "Hermes": ([HERMES], f"<tool_call>\n{CALL}\n</tool_call>", "", [MEANT]),
    "two, and something before": (
        [HERMES],
        f"Let me see.\n\n<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{CALL}\n</tool_call>\n",
        "Let me see.",
        [MEANT, MEANT],
    ),
    "something after": ([HERMES], f"<tool_call>{CALL}</tool_call>\nThat was it.", "That was it.", [MEANT]),
    "no end": ([HERMES], f"<tool_call>{CALL}", "", [MEANT]),
    "arguments first": (
        [HERMES],
        '<tool_call>{"arguments": {"days": [1, {"a": "}"}]}, "name": "weather"}</tool_call>',
        "",
        [("weather", {"days": [1, {"a": "}"}]})],
    ),
    "arguments as a text": (
        [HERMES],
        '<tool_call>{"name": "weather", "arguments": "{\\"days\\": 2}"}</tool_call>',
        "",
        [("weather", {"days": 2})],
    ),
    "no arguments": ([HERMES], '<tool_call>{"name": "now"}</tool_call>', "", [("now", {})]),
    "null for arguments": ([HERMES], '<tool_call>{"name": "now", "arguments": null}</tool_call>', "", [("now", {})]),
    "more than that": (
        [HERMES],
        '<tool_call>{"id": 1, "name": "now", "arguments": {}, "why": [null, -1.5e3]}</tool_call>',
        "",
        [("now", {})],
    ),
    "a list": ([HERMES], f"<tool_call>[{CALL}, {CALL}]</tool_call>", "", [MEANT, MEANT]),
    "one after the other": ([HERMES], f"<tool_call>\n{CALL}\n{CALL}\n</tool_call>", "", [MEANT, MEANT]),
    "the end within a text": (
        [HERMES],
        '<tool_call>{"name": "now", "arguments": {"a": "</tool_call>"}}</tool_call>',
        "",
        [("now", {"a": "</tool_call>"})],
    ),
    "a tool that was not given": ([HERMES], '<tool_call>{"name": "other"}</tool_call>', "", [("other", {})]),
    "Mistral": ([MISTRAL], f"[TOOL_CALLS][{CALL}, {CALL}]", "", [MEANT, MEANT]),
    "Mistral with names": (
        [MISTRAL_NAMED],
        f"Well.[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]now[CALL_ID]abc123def[ARGS]{{}}",
        "Well.",
        [MEANT, ("now", {})],
    ),
    "Llama": ([BARE], '{"name": "weather", "parameters": {"place": "Graz", "days": 2}}', "", [MEANT]),
    "Llama, two": ([BARE], f" {CALL}; {CALL}", "", [MEANT, MEANT]),
    "Llama, a tool that was not given": ([BARE], '{"name": "other", "a": 1}', '{"name": "other", "a": 1}', []),
    "Llama, other JSON": ([BARE], '{"place": "Graz"} it is', '{"place": "Graz"} it is', []),
    "Llama, a list of something": ([BARE], "[1, 2]", "[1, 2]", []),
    "Llama, later": ([BARE], f"Here: {CALL}", f"Here: {CALL}", []),
    "Llama, the code of a tag": (
        [BARE, target_pb2.ToolCallFormat(opens="<|python_tag|>")],
        f"<|python_tag|>{CALL}",
        "",
        [MEANT],
    ),
    "Qwen's coder": (
        [CODER],
        "<tool_call>\n<function=weather>\n<parameter=place>\nGraz\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
        "</function>\n</tool_call>",
        "",
        [MEANT],
    ),
    "a text in several lines": (
        [CODER],
        '<tool_call><function=weather><parameter=place>\n\na "b"\n<c>\\ </parameter ></parameter></function>'
        "</tool_call>",
        "",
        [("weather", {"place": '\na "b"\n<c>\\ </parameter >'})],
    ),
    "types": (
        [CODER],
        "<tool_call><function=weather><parameter=place>5</parameter><parameter=days>5</parameter>"
        "<parameter=hourly>True</parameter><parameter=units>null</parameter><parameter=near>[1]</parameter>"
        "<parameter=anything>1.5</parameter><parameter=unknown>7</parameter></function></tool_call>",
        "",
        [
            (
                "weather",
                {
                    "place": "5",
                    "days": 5,
                    "hourly": True,
                    "units": None,
                    "near": [1],
                    "anything": 1.5,
                    "unknown": "7",
                },
            )
        ],
    ),
    "values of other types": (
        [CODER],
        "<tool_call><function=weather><parameter=days>two</parameter><parameter=units>5</parameter>"
        "<parameter=near>NaN</parameter></function></tool_call>",
        "",
        [("weather", {"days": "two", "units": "5", "near": "NaN"})],
    ),
    "no parameters": ([CODER], "<tool_call>\n<function=now>\n</function>\n</tool_call>", "", [("now", {})]),
    "GLM": (
        [GLM],
        "Ok.\n<tool_call>weather\n<arg_key>place</arg_key>\n<arg_value>Graz</arg_value>\n<arg_key>days</arg_key>\n"
        "<arg_value>2</arg_value>\n</tool_call>\n<tool_call>now</tool_call>",
        "Ok.",
        [MEANT, ("now", {})],
    ),
    "broken JSON": (
        [HERMES],
        '<tool_call>{"name": weather}</tool_call>',
        '<tool_call>{"name": weather}</tool_call>',
        [],
    ),
    "a broken end": (
        [HERMES],
        'So:\n<tool_call>{"name": "weather", "arguments": {"days": 2}</tool_call> yes',
        'So:\n<tool_call>{"name": "weather", "arguments": {"days": 2}</tool_call> yes',
        [],
    ),
    "cut off": (
        [HERMES],
        'So:\n<tool_call>{"name": "weather", "arguments": {"days": 2',
        'So:\n<tool_call>{"name": "weather", "arguments": {"days": 2',
        [],
    ),
    "one, and one cut off": (
        [HERMES],
        f'<tool_call>{CALL}</tool_call>\n<tool_call>{{"name": "now", "arguments": {{',
        '<tool_call>{"name": "now", "arguments": {',
        [MEANT],
    ),
    "no name": ([HERMES], '<tool_call>{"arguments": {}}', '<tool_call>{"arguments": {}}', []),
    "no object": (
        [HERMES],
        '<tool_call>{"name": "now", "arguments": [1]}',
        '<tool_call>{"name": "now", "arguments": [1]}',
        [],
    ),
    "begun twice": ([HERMES], f"<tool_call><tool_call>{CALL}</tool_call>", "<tool_call>", [MEANT]),
    "tags cut off": (
        [CODER],
        "<tool_call>\n<function=weather>\n<parameter=place>\nGraz\n</parameter>\n",
        "<tool_call>\n<function=weather>\n<parameter=place>\nGraz\n</parameter>\n",
        [],
    ),
    "a name that is far from its end": (
        [MISTRAL_NAMED],
        f"[TOOL_CALLS]weather {'x ' * 60}[ARGS]{{}}",
        f"[TOOL_CALLS]weather {'x ' * 60}[ARGS]{{}}",
        [],
    ),
    "a name that is as far from its end as may be": (
        [MISTRAL_NAMED],
        f"[TOOL_CALLS]now{' ' * 96}[ARGS]{{}}",
        "",
        [("now", {})],
    ),
    "arguments twice": (
        [HERMES],
        '<tool_call>{"name": "now", "arguments": {}, "parameters": {"a": 1}}</tool_call>',
        "",
        [("now", {})],
    ),
    "JSON where there should be tags": ([CODER], f"<tool_call>\n{CALL}\n</tool_call>", "", [MEANT]),
    "a list where there should be names": ([MISTRAL_NAMED], f"[TOOL_CALLS][{CALL}]", "", [MEANT]),
    "no name at all": ([MISTRAL_NAMED], f"[TOOL_CALLS]{'a' * 200}[ARGS]{{}}", f"[TOOL_CALLS]{'a' * 200}[ARGS]{{}}", []),
}


def pieces_of(data: st.DataObject, text: str) -> list[str]:
    ends = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=30)
@given(data=st.data())
def test_any_pieces_give_the_same(name: str, data: st.DataObject) -> None:
    formats, text, content, calls = CASES[name]
    told = whole(answer_of(*formats), pieces_of(data, text))
    assert (told.content, told.meant) == (content, calls)
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", id_) for id_ in told.ids)
    assert len(set(told.ids)) == len(told.ids)


@pytest.mark.parametrize("name", CASES)
def test_single_characters_give_the_same(name: str) -> None:
    formats, text, content, calls = CASES[name]
    answer = answer_of(*formats)
    told = whole(answer, text)
    assert (told.content, told.meant, answer.num_tool_calls) == (content, calls, len(calls))


FORMATS = [HERMES, BARE, MISTRAL, MISTRAL_NAMED, CODER, GLM, *TO_FUNCTION]
SPELLINGS = sorted({text for form in FORMATS for _, text in form.ListFields() if isinstance(text, str)})
SCRAPS = [*SPELLINGS, CALL, "weather", "now", '"name"', ":", "{", "}", "[", "]", ",", '"', "\\", "1", " ", "\n", "word"]


@given(st.sampled_from(FORMATS), st.lists(st.sampled_from(SCRAPS), max_size=12).map("".join), st.data())
def test_any_text_in_any_pieces(form: target_pb2.ToolCallFormat, text: str, data: st.DataObject) -> None:
    """What is told is one function of the text, calls are valid, and without one all of it is content."""
    at_once, in_pieces = whole(answer_of(form), [text]), whole(answer_of(form), pieces_of(data, text))
    # They are drawn.
    in_pieces.ids = at_once.ids
    assert in_pieces == at_once
    assert all(isinstance(arguments, dict) for _, arguments in at_once.meant)
    if not at_once.calls:
        assert at_once.content == text


@given(st.lists(st.sampled_from([*SCRAPS, "<tool_call>", "</tool_call>"]), max_size=12).map("".join))
def test_nothing_is_told_that_is_taken_back_but_by_withdrawing(text: str) -> None:
    """Each character makes the content longer, or calls; what is said stays said."""
    answer, told = answer_of(HERMES), Whole()
    for character in text:
        answer.feed(character)
        before = told.content
        told.add(answer.drain())
        assert told.content.startswith(before)
    told.add(answer.finish())
    assert whole(answer_of(HERMES), [text]).content == told.content


def test_arguments_are_told_as_they_come() -> None:
    answer = answer_of(HERMES)
    answer.feed('<tool_call>{"name": "weather", "arguments": ')
    assert not answer.drain().tool_calls
    answer.feed('{"pl')
    (first,) = answer.drain().tool_calls
    assert (first.index, first.name, first.arguments, len(first.id)) == (0, "weather", '{"pl', 9)
    answer.feed('ace": "Gr')
    (more,) = answer.drain().tool_calls
    assert (more.index, more.id, more.name, more.arguments) == (0, "", "", 'ace": "Gr')


def test_texts_in_tags_are_told_as_they_come() -> None:
    answer = answer_of(CODER)
    answer.feed("<tool_call><function=weather>")
    (first,) = answer.drain().tool_calls
    assert (first.name, first.arguments) == ("weather", "{")
    answer.feed("<parameter=place>\nGr")
    assert [delta.arguments for delta in answer.drain().tool_calls] == ['"place": "Gr']
    # It may be the end.
    answer.feed("\n</para")
    assert not answer.drain().tool_calls
    answer.feed("meter><parameter=days>12")
    assert [delta.arguments for delta in answer.drain().tool_calls] == ['", "days": ']


def test_a_call_that_breaks_off_is_withdrawn() -> None:
    answer = answer_of(HERMES)
    answer.feed('<tool_call>{"name": "weather", "arguments": {"days": 1 2')
    deltas = answer.drain()
    assert [delta.is_withdrawn for delta in deltas.tool_calls] == [False, True]
    assert deltas.content == '<tool_call>{"name": "weather", "arguments": {"days": 1 2'
    answer.feed(f"<tool_call>{CALL}")
    # Its index is not used again: whoever joins deltas by it would join two calls.
    assert {delta.index for delta in answer.finish().tool_calls} == {1}
    assert answer.num_tool_calls == 1


def test_without_tools_nothing_is_read() -> None:
    text = f"<tool_call>{CALL}</tool_call>"
    assert whole(answer_of(HERMES, BARE, tools=[]), [text]).content == text
    assert whole(answer_of(BARE, tools=[]), [CALL]).content == CALL


def test_a_thought_calls_nothing() -> None:
    answer = answer_of(HERMES, BARE, markers=THINK.markers, first=target_pb2.ANSWER_PART_REASONING)
    told = whole(answer, [f"I could <tool_call>{CALL}</tool_call>\n</think>\n\n", f"<tool_call>{CALL}</tool_call>"])
    assert told.reasoning == f"I could <tool_call>{CALL}</tool_call>"
    assert (told.content, told.meant) == ("", [MEANT])


def test_markers_within_arguments_are_text() -> None:
    answer = answer_of(HERMES, markers=THINK.markers)
    told = whole(answer, ['<tool_call>{"name": "now", "arguments": {"a": "<think>b</think>"}}</tool_call><think>c'])
    assert told.meant == [("now", {"a": "<think>b</think>"})]
    assert (told.content, told.reasoning) == ("", "c")


def test_what_is_said_after_a_thought_may_be_a_call() -> None:
    answer = answer_of(BARE, markers=THINK.markers)
    told = whole(answer, ["<think>hm</think>\n\n", CALL])
    assert (told.content, told.reasoning, told.meant) == ("", "hm", [MEANT])


@pytest.mark.parametrize(
    "head",
    [
        "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>",
        " to=functions.weather<|channel|>commentary json<|message|>",
        THOUGHT + "<|channel|>commentary to=functions.weather<|message|>",
        THOUGHT + " to=functions.weather<|channel|>commentary<|message|>",
    ],
)
def test_calls_on_channels(head: str) -> None:
    answer = answer_of(*TO_FUNCTION, markers=HARMONY.markers, first=HARMONY.first)
    told = whole(answer, head + ARGUMENTS)
    assert (told.content, told.meant) == ("", [MEANT])
    assert told.reasoning == ("hm" if "analysis" in head else "")


def test_a_long_text_takes_no_long_time() -> None:
    """Calls that never end are read once: what was read of one is not searched again."""
    text = '<tool_call>{"name": "now", "arguments": {"a": "' * 2000
    told = whole(answer_of(HERMES), [text[start : start + 50] for start in range(0, len(text), 50)])
    assert (told.content, told.calls) == (text, {})


def test_a_call_nested_deep() -> None:
    arguments = '{"a": ' * 3000 + "1" + "}" * 3000
    told = whole(answer_of(HERMES), [f'<tool_call>{{"name": "now", "arguments": {arguments}}}</tool_call>'])
    assert [arguments for _, arguments in told.calls.values()] == [arguments]


def test_indices_and_json_of_all_kinds() -> None:
    values = {"a": [1, -0.5, 1e-7, True, False, None, '\u00e9\n"\\'], "b": {}, "c": []}
    text = json.dumps({"name": "now", "arguments": values}, indent=2)
    assert whole(answer_of(HERMES), f"<tool_call>\n{text}\n</tool_call>").meant == [("now", values)]
