"""How a model parts its answers into what it thinks and what it says, by its template and its vocabulary."""

from dataclasses import dataclass

from outrider.v1 import target_pb2

_CONTENT = target_pb2.ANSWER_PART_CONTENT
_REASONING = target_pb2.ANSWER_PART_REASONING
_FRAME = target_pb2.ANSWER_PART_FRAME

# Channels, as in gpt-oss: who speaks, on which channel, the message.
_CHANNELS = {
    "<|start|>": _FRAME,
    "<|channel|>": _FRAME,
    "<|channel|>final<|message|>": _CONTENT,
    "<|message|>": _REASONING,
    "<|end|>": _FRAME,
    "<|return|>": _FRAME,
}


@dataclass(frozen=True)
class _Pair:
    """What opens and closes a thought; `frame` is dropped wherever it stands in what is said."""

    opens: str
    closes: str
    frame: tuple[str, ...] = ()


_PAIRS = (
    _Pair("<|channel>thought\n", "<channel|>"),
    _Pair("<|START_THINKING|>", "<|END_THINKING|>", ("<|START_RESPONSE|>", "<|END_RESPONSE|>")),
    _Pair("<|inner_prefix|>", "<|inner_suffix|>"),
    _Pair("<seed:think>", "</seed:think>"),
    _Pair("<mm:think>", "</mm:think>"),
    _Pair("[THINK]", "[/THINK]"),
    _Pair("◁think▷", "◁/think▷"),
    _Pair("<think>", "</think>"),
)


def answer_format(source: str, prompt: str) -> target_pb2.AnswerFormat:
    """Return how the model answers a prompt that its template, of this source, made."""
    if "<|channel|>" in source and "<|message|>" in source:
        return _format(_CONTENT, _CHANNELS)
    pair = next((pair for pair in _PAIRS if pair.closes in source), None)
    if pair is None:
        return target_pb2.AnswerFormat(first=_CONTENT)
    is_open = prompt.rstrip().endswith(pair.opens.rstrip())
    markers = {pair.opens: _REASONING, pair.closes: _CONTENT, **dict.fromkeys(pair.frame, _CONTENT)}
    return _format(_REASONING if is_open else _CONTENT, markers)


def _format(
    first: target_pb2.AnswerPart.ValueType, markers: dict[str, target_pb2.AnswerPart.ValueType]
) -> target_pb2.AnswerFormat:
    texts = [target_pb2.AnswerMarker(text=text, begins=begins) for text, begins in markers.items()]
    return target_pb2.AnswerFormat(first=first, markers=texts)
