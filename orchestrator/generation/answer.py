"""Answers of chats, parted into what the model says, what it thinks, and the tools that it calls."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from orchestrator.generation.json_scanner import WHITE_SPACE
from orchestrator.generation.tool_calls import ToolCalls, argument_types, draw_call_id
from outrider.v1 import generation_pb2, target_pb2

Part: TypeAlias = "target_pb2.AnswerPart.ValueType"

_CONTENT = target_pb2.ANSWER_PART_CONTENT
_REASONING = target_pb2.ANSWER_PART_REASONING


class AnswerParts(NamedTuple):
    """What is certain of an answer since the last time."""

    content: str
    reasoning: str
    tool_calls: Sequence[generation_pb2.ToolCallDelta] = ()


class _Marker(NamedTuple):
    """A spelling that begins another part, or calls of tools."""

    text: str
    begins: Part
    calls: target_pb2.ToolCallFormat | None = None


class Answer:
    """Parts one answer as it comes. Text is held back while it may be the beginning of a marker.

    The line breaks between a marker and what it begins, and those at the end of a thought, belong to the frame; so does
    white space around calls of tools.
    """

    def __init__(
        self,
        form: target_pb2.AnswerFormat,
        spellings: Mapping[int, str] | None = None,
        tools: Sequence[target_pb2.Tool] = (),
        draw_id: Callable[[], str] = draw_call_id,
    ) -> None:
        """Part by the markers of `form`; `spellings` are those of tokens that add nothing to the text.

        Calls are looked for where there are `tools`.
        """
        markers = [_Marker(marker.text, marker.begins) for marker in form.markers]
        formats = form.tool_calls if tools else ()
        openings = [_Marker(each.opens or each.call_opens, _CONTENT, each) for each in formats]
        self._markers = _longest_first(markers)
        self._markers_and_openings = _longest_first([*markers, *(opening for opening in openings if opening.text)])
        # Calls that nothing opens are all that is said.
        self._bare = next((opening.calls for opening in openings if not opening.text), None)
        self._spellings = spellings or {}
        self._tools = argument_types(tools)
        self._draw_id = draw_id
        self._part: Part = form.first or _CONTENT
        self._held = ""
        # White space that belongs to the frame where something is said next.
        self._dropped = ""
        self._is_anything_said = False
        self._calls: ToolCalls | None = None
        self._next_index = 0
        self._deltas: list[generation_pb2.ToolCallDelta] = []
        self._ready: dict[Part, list[str]] = {_CONTENT: [], _REASONING: []}
        self.num_tool_calls = 0

    def feed(self, text: str, token: int | None = None) -> None:
        """Go on with a text, and with what `token`, that brought it, is spelled like where it is a marker's."""
        self._held += text + ("" if token is None else self._spellings.get(token, ""))
        self._part_held(is_last=False)

    @property
    def is_thinking(self) -> bool:
        """Whether what follows is thought, as far as is certain."""
        return self._part == _REASONING

    def drain(self) -> AnswerParts:
        """Return what is certain since the last time."""
        content, reasoning = ["".join(self._ready[part]) for part in (_CONTENT, _REASONING)]
        for texts in self._ready.values():
            texts.clear()
        deltas, self._deltas = self._deltas, []
        return AnswerParts(content, reasoning, deltas)

    def finish(self) -> AnswerParts:
        """Return the rest."""
        self._part_held(is_last=True)
        return self.drain()

    def _part_held(self, *, is_last: bool) -> None:
        while self._calls is None or self._read_calls(self._calls, is_last=is_last):
            if self._bare is not None and self._is_at_start and self._held.lstrip(WHITE_SPACE).startswith(("{", "[")):
                self._begin_calls(self._bare)
            elif (found := self._next_marker(is_last=is_last)) is None:
                self._tell(len(self._held) - (0 if is_last else self._num_undecided()), ends_part=is_last)
                return
            elif (calls := found[1].calls) is not None:
                self._tell(len(self._held[: found[0]].rstrip(WHITE_SPACE)), ends_part=False)
                self._begin_calls(calls)
            else:
                start, marker = found
                self._tell(start, ends_part=True)
                self._held = self._held[len(marker.text) :]
                self._part, self._dropped = marker.begins, "\n"

    @property
    def _is_at_start(self) -> bool:
        return self._part == _CONTENT and not self._is_anything_said

    @property
    def _here(self) -> Sequence[_Marker]:
        """The markers that count in this part: a thought calls no tools, though it may well speak of it."""
        return self._markers if self._part == _REASONING else self._markers_and_openings

    def _begin_calls(self, form: target_pb2.ToolCallFormat) -> None:
        self._calls = ToolCalls(form, self._tools, self._next_index, self._draw_id)

    def _read_calls(self, calls: ToolCalls, *, is_last: bool) -> bool:
        """Let them have what is held, and return whether they are over."""
        is_over = calls.feed(self._held, is_last=is_last)
        self._held = calls.rest if is_over else ""
        self._deltas += calls.drain()
        if is_over:
            self._calls = None
            self._next_index = calls.next_index
            self.num_tool_calls += calls.num_calls
            self._dropped = WHITE_SPACE if calls.num_calls else self._dropped
            self._is_anything_said = True
            self._say(_CONTENT, calls.text)
        return is_over

    def _next_marker(self, *, is_last: bool) -> tuple[int, _Marker] | None:
        """Return where the first marker begins, and which it is, unless a longer one may still come of it."""
        found = [(start, marker) for marker in self._here if (start := self._held.find(marker.text)) >= 0]
        # The longest comes first among those that begin together.
        first = min(found, key=lambda match: match[0], default=None)
        if first is None or is_last:
            return first
        rest = self._held[first[0] :]
        may_grow = any(len(marker.text) > len(rest) and marker.text.startswith(rest) for marker in self._here)
        return None if may_grow else first

    def _num_undecided(self) -> int:
        """Return the length of what is to be held back: it may become a marker, or precede one."""
        texts = [marker.text for marker in self._here]
        lengths = range(min(len(self._held), max(map(len, texts), default=0)), 0, -1)
        may_grow = (n for n in lengths if any(text.startswith(self._held[-n:]) for text in texts))
        length = next(may_grow, 0)
        before = self._held[: len(self._held) - length]
        if self._part == _REASONING:
            length += len(before) - len(before.rstrip("\n"))
        elif self._bare is not None or len(self._here) > len(self._markers):
            length += len(before) - len(before.rstrip(WHITE_SPACE))
        return length

    def _tell(self, length: int, *, ends_part: bool) -> None:
        text, self._held = self._held[:length], self._held[length:]
        if ends_part and self._part == _REASONING:
            text = text.rstrip("\n")
        self._say(self._part, text)

    def _say(self, part: Part, text: str) -> None:
        text = text.lstrip(self._dropped) if self._dropped else text
        self._dropped = "" if text else self._dropped
        if text and part in self._ready:
            self._ready[part].append(text)
            self._is_anything_said |= part == _CONTENT


def marker_spellings(form: target_pb2.AnswerFormat, silent: Mapping[int, str]) -> dict[int, str]:
    """Return those of `silent`, the spellings of tokens that add nothing to the text, that are part of a marker."""
    of_calls = [text for calls in form.tool_calls for field, text in calls.ListFields() if field.name != "beside"]
    beside = [text for calls in form.tool_calls for text in calls.beside]
    markers = "\n".join([*(marker.text for marker in form.markers), *of_calls, *beside])
    return {token: text for token, text in silent.items() if len(text) > 1 and text in markers}


def _longest_first(markers: Sequence[_Marker]) -> list[_Marker]:
    return sorted(markers, key=lambda marker: -len(marker.text))
