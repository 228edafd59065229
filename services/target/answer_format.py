"""How a model parts its answers into what it thinks and what it says, by its template and its vocabulary."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from outrider.v1 import target_pb2
from services.target.messages import Message

_CONTENT = target_pb2.ANSWER_PART_CONTENT
_REASONING = target_pb2.ANSWER_PART_REASONING
_FRAME = target_pb2.ANSWER_PART_FRAME

_Markers = dict[str, target_pb2.AnswerPart.ValueType]


@dataclass(frozen=True)
class _Turns:
    """A model whose answer is several messages; a template `is_of` this kind that contains all of these."""

    is_of: tuple[str, ...]
    markers: _Markers


_TURNS = (
    # gpt-oss: who speaks, on which channel, the message. What calls a tool is thought; what is said before that is not.
    _Turns(
        ("<|channel|>", "<|message|>"),
        {
            "<|start|>": _FRAME,
            "<|channel|>": _FRAME,
            "<|channel|>final<|message|>": _CONTENT,
            "<|channel|>final <|constrain|>json<|message|>": _CONTENT,
            "<|channel|>commentary<|message|>": _CONTENT,
            "<|message|>": _REASONING,
            "<|end|>": _FRAME,
            "<|return|>": _FRAME,
        },
    ),
    # Solar: a message for the thought, one for the content.
    _Turns(
        ("<|begin|>", "<|think|>", "<|content|>"),
        {"<|begin|>": _FRAME, "<|think|>": _REASONING, "<|content|>": _CONTENT, "<|end|>": _FRAME},
    ),
    # What is said to itself, and to the user.
    _Turns(
        ("<|start|>assistant to=self<|message|>",),
        {
            "<|start|>assistant": _FRAME,
            " to=self<|message|>": _REASONING,
            " to=user<|message|>": _CONTENT,
            "<|message|>": _CONTENT,
            "<|eom|>": _FRAME,
            "<|eot|>": _FRAME,
        },
    ),
    # Kimi K3: tags around each part.
    _Turns(
        ("<|open|>", "<|close|>", "<|sep|>"),
        {
            "<|open|>think<|sep|>": _REASONING,
            "<|close|>think<|sep|>": _FRAME,
            "<|open|>response<|sep|>": _CONTENT,
            "<|close|>response<|sep|>": _FRAME,
            "<|close|>message<|sep|>": _FRAME,
        },
    ),
)


@dataclass(frozen=True)
class _Pair:
    """What opens and closes a thought; `frame` is dropped wherever it stands in what is said."""

    opens: str
    closes: str
    frame: tuple[str, ...] = ()


_PAIRS = (
    _Pair("<|channel>thought\n", "<channel|>"),
    _Pair(
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    _Pair("<|inner_prefix|>", "<|inner_suffix|>"),
    _Pair("<seed:think>", "</seed:think>"),
    _Pair("<mm:think>", "</mm:think>"),
    _Pair("[THINK]", "[/THINK]"),
    _Pair("◁think▷", "◁/think▷"),
    _Pair("Here are my reasoning steps:\n", "[BEGIN FINAL RESPONSE]", ("[END FINAL RESPONSE]",)),
    _Pair("<think>", "</think>"),
)
# What some models put around what they say after a <think>. Further off it stands around what tools give.
_AROUND = re.compile(r"</think>.{0,200}?<(response|answer)>", re.DOTALL)
# Tags that a template makes as it renders, as <think:opensource>.
_MADE = re.compile(r"<(think:\w+)>(?:\s*</\1>)?\s*\Z")


def answer_format(source: str, prompt: str, spellings: Collection[str] = ()) -> target_pb2.AnswerFormat:
    """Return how the model answers a prompt that its template, of this source, made.

    `spellings` are those of the tokens that steer it: they count where the template says nothing.
    """
    turns = next((turns for turns in _TURNS if all(text in source for text in turns.is_of)), None)
    markers = turns.markers if turns else _thought_markers(source, prompt, spellings)
    # A prompt may have begun with a part.
    end = prompt.rstrip()
    begun = next((begins for text, begins in markers.items() if end.endswith(text.rstrip())), _CONTENT)
    return target_pb2.AnswerFormat(
        first=_REASONING if begun == _REASONING else _CONTENT,
        markers=[target_pb2.AnswerMarker(text=text, begins=begins) for text, begins in markers.items()],
    )


def continued_part(form: target_pb2.AnswerFormat, last: Message) -> target_pb2.AnswerPart.ValueType:
    """Return what an answer begins with that goes on with the last message of a chat."""
    is_thought = bool(last.reasoning) and not last.content
    return _REASONING if is_thought and any(marker.begins == _REASONING for marker in form.markers) else _CONTENT


def _thought_markers(source: str, prompt: str, spellings: Collection[str]) -> _Markers:
    pair = next((pair for pair in _PAIRS if pair.closes in source), None)
    if pair is None and (made := _MADE.search(prompt)):
        pair = _Pair(f"<{made[1]}>", f"</{made[1]}>")
    if pair is None:
        pair = next((pair for pair in _PAIRS if pair.closes in spellings), None)
    if pair is None:
        return {}
    around = [tag for name in _AROUND.findall(source) for tag in (f"<{name}>", f"</{name}>")]
    return {pair.opens: _REASONING, pair.closes: _CONTENT, **dict.fromkeys((*pair.frame, *around), _CONTENT)}
