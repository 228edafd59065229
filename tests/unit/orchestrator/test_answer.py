"""Answers of chats are parted into what is said and what is thought, however the text comes in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.answer import Answer, marker_spellings
from orchestrator.pair import ServedModel
from outrider.v1 import common_pb2, target_pb2
from services.target.answer_format import answer_format

CHANNELS = "{{ '<|start|>assistant<|channel|>final<|message|>' }}"
THINK = "{{ '<think>' }}{{ content.split('</think>')[-1] }}"
GEMMA = "{{ '<|channel>thought\\n<channel|>' }}"
COHERE = "<|START_THINKING|><|END_THINKING|><|START_RESPONSE|><|END_RESPONSE|>"

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
        told.append(answer.take())
    told.append(answer.finish())
    assert "".join(said for said, _ in told) == content
    assert "".join(thought for _, thought in told) == reasoning


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
    assert answer.finish() == ("yes", "hm")


def test_an_answer_of_nothing_known() -> None:
    answer = Answer(target_pb2.AnswerFormat())
    answer.feed("all")
    assert answer.finish() == ("all", "")
