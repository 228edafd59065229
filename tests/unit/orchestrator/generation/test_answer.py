"""Answers of chats are parted into what is said and what is thought, however the text comes in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.generation.answer import Answer, marker_spellings
from orchestrator.peers.pair import ServedModel
from outrider.v1 import common_pb2, target_pb2
from services.target.answer_format import answer_format

CHANNELS = "{{ '<|start|>assistant<|channel|>final<|message|>' }}"
THINK = "{{ '<think>' }}{{ content.split('</think>')[-1] }}"
GEMMA = "{{ '<|channel>thought\\n<channel|>' }}"
COHERE = "<|START_THINKING|><|END_THINKING|><|START_RESPONSE|><|END_RESPONSE|>"
SOLAR = "{{ '<|begin|>assistant<|think|>' + thought + '<|end|><|begin|>assistant<|content|>' + said + '<|end|>' }}"
TO_SELF = "{{ '<|start|>assistant to=self<|message|>' + thought + '<|eom|>' }}"
TAGS = "{{ '<|open|>' + tag }}{{ '<|sep|>' }}{{ '<|close|>' + tag + '<|sep|>' }}"
STEPS = "give the response after the marker [BEGIN FINAL RESPONSE]. {{ 'Here are my reasoning steps:\n' }}"
AROUND = "{{ '<think>\n' + thought + '\n</think>\n<answer>\n' + said + '\n</answer>' }}"
MADE = "{{ '<think{}>'.format(':a') + '</think{}>'.format(':a') }}"
# What tools give stands between the same tags.
TOOLS = "{{ '</think>' }}" + "{# #}" * 50 + "{{ '<response>' + result + '</response>' }}"

# Template, prompt, answer, what of it is said, what is thought.
CASES = {
    "no format": ("{{ content }}", "", "a <think>b</think>\n c", "a <think>b</think>\n c", ""),
    "channels": (
        CHANNELS,
        "<|start|>assistant",
        "<|channel|>analysis<|message|>hm\nhm<|end|><|start|>assistant<|channel|>final<|message|>yes\n\nno<|return|>",
        "yes\n\nno",
        "hm\nhm",
    ),
    "channels, a word before and JSON": (
        CHANNELS,
        "<|start|>assistant",
        "<|channel|>commentary<|message|>well<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{}",
        "well{}",
        "",
    ),
    "a message for each": (
        SOLAR,
        "<|begin|>assistant",
        "<|think|>hm<|end|><|begin|>assistant<|content|>yes<|end|>",
        "yes",
        "hm",
    ),
    "to itself": (
        TO_SELF,
        "<|start|>assistant",
        " to=self<|message|>hm<|eom|><|start|>assistant to=user<|message|>yes to=<|eot|>",
        "yes to=",
        "hm",
    ),
    "to nobody": (TO_SELF, "<|start|>assistant", "<|message|>yes", "yes", ""),
    "tags": (
        TAGS,
        "<|open|>message<|sep|><|open|>think<|sep|>",
        "hm<|close|>think<|sep|><|open|>response<|sep|>yes<|close|>response<|sep|><|close|>message<|sep|>",
        "yes",
        "hm",
    ),
    "tags, no thought": (TAGS, "<|open|>response<|sep|>", "yes<|close|>response<|sep|>", "yes", ""),
    "steps": (STEPS, "<|assistant|>\nHere are my reasoning steps:\n", "hm\n[BEGIN FINAL RESPONSE]\nyes", "yes", "hm"),
    "steps of a model that begins": (
        STEPS,
        "<|assistant|>\n",
        "Here are my reasoning steps:\nhm\n[BEGIN FINAL RESPONSE]\nyes",
        "yes",
        "hm",
    ),
    "tags around what is said": (AROUND, "", "<think>\nhm\n</think>\n<answer>\nyes</answer>", "yes", "hm"),
    "tags around what tools give": (TOOLS, "", "<think>hm</think>a <response>", "a <response>", "hm"),
    "made tags": (MADE, "Assistant<think:a>", "hm</think:a>yes", "yes", "hm"),
    "made tags, no thought": (MADE, "Assistant<think:a></think:a>", "yes", "yes", ""),
    "channels, no thought": (CHANNELS, "<|start|>assistant", "<|channel|>final<|message|>yes", "yes", ""),
    "a thought": (THINK, "<|im_start|>assistant\n", "<think>\nhm\n\nhm\n</think>\n\nyes\n", "yes\n", "hm\n\nhm"),
    "a thought that the prompt began": (THINK, "<|Assistant|><think>\n", "hm\n</think>\n\nyes", "yes", "hm"),
    "no thought": (THINK, "<|Assistant|>", "yes <thin", "yes <thin", ""),
    "a thought without end": (THINK, "<think>", "hm\n", "", "hm"),
    "Gemma": (GEMMA, "<|turn>model\n", "<|channel>thought\nhm\n<channel|>yes", "yes", "hm"),
    "Command R": (
        COHERE,
        "",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>yes<|END_RESPONSE|>",
        "yes",
        "hm",
    ),
}


@pytest.mark.parametrize("name", CASES)
@given(data=st.data())
def test_parts(name: str, data: st.DataObject) -> None:
    source, prompt, text, content, reasoning = CASES[name]
    answer = Answer(answer_format(source, prompt))
    told = []
    while text:
        length = data.draw(st.integers(1, 8))
        answer.feed(text[:length])
        text = text[length:]
        told.append(answer.drain())
    told.append(answer.finish())
    assert "".join(parts.content for parts in told) == content
    assert "".join(parts.reasoning for parts in told) == reasoning


def test_markers_that_add_nothing_to_the_text() -> None:
    form = answer_format(THINK, "")
    entries = [
        common_pb2.TokenEntry(text="<think>"),
        common_pb2.TokenEntry(text="</think>"),
        common_pb2.TokenEntry(text="hm", output=b"hm"),
        common_pb2.TokenEntry(text="</s>"),
    ]
    spellings = marker_spellings(form, ServedModel(common_pb2.ModelInfo(), entries).silent_spellings)
    assert spellings == {0: "<think>", 1: "</think>"}
    answer = Answer(form, spellings)
    for token, text in [(0, ""), (2, "hm"), (1, ""), (2, "yes"), (3, "")]:
        answer.feed(text, token)
    assert answer.finish() == ("yes", "hm", [])


def test_tokens_of_which_the_template_says_nothing() -> None:
    form = answer_format("{{ content }}", "", {"<s>", "<think>", "</think>"})
    answer = Answer(form)
    answer.feed("<think>hm</think>yes")
    assert answer.finish() == ("yes", "hm", [])
    assert not answer_format("{{ content }}", "", {"<s>"}).markers


def test_an_answer_of_nothing_known() -> None:
    answer = Answer(target_pb2.AnswerFormat())
    answer.feed("all")
    assert answer.finish() == ("all", "", [])
