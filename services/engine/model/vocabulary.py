"""The tokens of a model, and text to ids and back, as llama.cpp does it."""

import ctypes
import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property

import llama_cpp
from llama_cpp.llama_cpp import _lib as _LIBRARY

from services.engine.errors import TooLongError
from services.engine.model.steering import Spellings, is_marker, is_plain_marker


class Attribute(IntEnum):
    """What kind of token an id is; the values of `outrider.v1.TokenAttribute`."""

    NORMAL = 0
    CONTROL = 1
    BYTE = 2
    USER_DEFINED = 3
    UNKNOWN = 4
    UNUSED = 5


_ATTRIBUTE_BITS = (
    (llama_cpp.LLAMA_TOKEN_ATTR_CONTROL, Attribute.CONTROL),
    (llama_cpp.LLAMA_TOKEN_ATTR_BYTE, Attribute.BYTE),
    (llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED, Attribute.USER_DEFINED),
    (llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN, Attribute.UNKNOWN),
    (llama_cpp.LLAMA_TOKEN_ATTR_UNUSED, Attribute.UNUSED),
)
_USUAL_OUTPUT_BYTES = 128
# llama.cpp counts them with numbers of four bytes.
_MOST_IDS = 2**31 - 1
_SPECIAL = (Attribute.CONTROL, Attribute.UNKNOWN, Attribute.USER_DEFINED)
_STRIPS = llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP | llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP
_WHITE_SPACE = b" \t\n\v\f\r"
# Their ids stand for all of a text, whatever it is.
_LOSSLESS = (llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE, llama_cpp.LLAMA_VOCAB_TYPE_RWKV)
# A search passes over so many characters in the time that it takes to compare at one where a token could begin.
_SEARCHED_AT_ONCE = 64
# Comparisons that take some 10 ms.
_MOST_COMPARED = 1_000_000
# Characters that no text has a use for: they merge with nothing, so that what follows them can be told apart.
_NONCHARACTERS = [chr(code) for code in range(0xFDD2, 0xFDF0)]


@dataclass(frozen=True)
class Entry:
    """One id: its spelling in the file, the bytes it adds to the output, its kind."""

    spelling: bytes
    output: bytes
    attribute: Attribute
    is_end_of_generation: bool


class Vocabulary:
    """The vocabulary of a loaded model. Safe to use from any thread: llama.cpp only reads it."""

    def __init__(
        self, handle: llama_cpp.llama_vocab_p, further_ends: Collection[int] = (), *, templates: str = ""
    ) -> None:
        """Read llama.cpp's vocabulary. `templates` are the sources of the chat templates that were made for it.

        `further_ends` end a generation beside the ids that do by the file.

        Raises:
            ValueError: one of them is outside the vocabulary.
        """
        self._handle = handle
        self._templates = templates
        self.size: int = llama_cpp.llama_vocab_n_tokens(handle)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(handle)
        bos = llama_cpp.llama_vocab_bos(handle)
        self.bos: int | None = bos if bos >= 0 else None
        eos = llama_cpp.llama_vocab_eos(handle)
        self.eos: int | None = eos if eos >= 0 else None
        self._own_ends = frozenset(token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(handle, token))
        if further_ends and max(further_ends) >= self.size:
            raise ValueError(f"token {max(further_ends)} is outside the vocabulary of {self.size} ids")
        self.end_of_generation = self._own_ends.union(further_ends)
        # Never chosen, as the file says.
        self.suppressed = frozenset(token for token in _suppressed(handle) if 0 <= token < self.size)

    @cached_property
    def entries(self) -> list[Entry]:
        """All entries, by id."""
        buffer = ctypes.create_string_buffer(_USUAL_OUTPUT_BYTES)
        return [self._entry(token, buffer) for token in range(self.size)]

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of all entries, of the first token, and of those that end a generation by the file."""
        digest = hashlib.sha256(f"{self.bos if self.adds_bos else None} {sorted(self._own_ends)}".encode())
        for entry in self.entries:
            lengths = b"%d:%d:%d:" % (len(entry.spelling), len(entry.output), entry.attribute)
            digest.update(lengths + entry.spelling + entry.output)
        return digest.hexdigest()

    @property
    def lacks_bytes(self) -> bool:
        """Whether some text cannot be tokenized: llama.cpp throws, and ends the process, for such a byte."""
        if llama_cpp.llama_vocab_type(self._handle) != llama_cpp.LLAMA_VOCAB_TYPE_SPM:
            return False
        spellings = {entry.spelling for entry in self.entries}
        return any(b"<0x%02X>" % byte not in spellings for byte in range(256))

    @cached_property
    def steering(self) -> frozenset[int]:
        """The ids that steer the model, which no text of a user may become.

        llama.cpp takes some of them for user-defined ones when it loads a model, and reads those in any text.
        """
        return frozenset(token for token, entry in enumerate(self.entries) if self._steers(token, entry))

    @cached_property
    def steering_texts(self) -> frozenset[str]:
        """How the tokens that steer the model are spelled."""
        return frozenset(self.entries[token].spelling.decode(errors="replace") for token in self.steering)

    @cached_property
    def steering_spellings(self) -> Spellings:
        """What a user's text must be parted at.

        Control tokens too where none are read: ordinary ones merge into them, with SentencePiece, where one is spelled
        like the rest of it.
        """
        return Spellings(self.steering_texts)

    @cached_property
    def adds_space(self) -> bool:
        """Whether a text gets a space in front, at its start and after each special token."""
        return self._output_of(self._ids("a", parse_special=False)[:1]).startswith(b" ")

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool, most: int = _MOST_IDS) -> list[int]:
        """Turn text into ids; `add_bos` puts the first token in front where the model wants one.

        With `parse_special` off no id of the result steers the model.

        Raises:
            TooLongError: there are more than `most` of them.
        """
        self.check_length(text, most)
        parts = [text] if parse_special else self.steering_spellings.parts(text)
        first = [self.bos] if add_bos and self.adds_bos and self.bos is not None else []
        return first + self.tokenize_parts([(part, parse_special) for part in parts], most=most - len(first))

    def tokenize_parts(self, parts: Iterable[tuple[str, bool]], *, most: int = _MOST_IDS) -> list[int]:
        """Turn a text into ids part by part: no token spans two. Each says whether control tokens are read in it.

        Raises:
            TooLongError: there are more than `most` of them.
        """
        tokens: list[int] = []
        for part, parse_special in parts:
            # What follows a control token begins anew for llama.cpp.
            is_anew = not tokens
            for piece, is_special in self._pieces(part) if parse_special else [(part, False)]:
                tokens += (self._ids if is_anew else self._continued)(piece, parse_special=is_special)
                is_anew = is_special
                if len(tokens) > most:
                    raise TooLongError(len(tokens))
        return tokens

    def check_length(self, text: str, most: int) -> None:
        """Raise TooLongError for a text that is too long for `most` ids, whatever they are."""
        # A character has at most four bytes.
        if 4 * len(text) <= most * self._longest:
            return
        data = text.encode()
        if self._strips:
            data = data.translate(None, _WHITE_SPACE)
        least = -(-len(data) // self._longest)
        if least > most and llama_cpp.llama_vocab_type(self._handle) in _LOSSLESS:
            raise TooLongError(least)

    def detokenize(self, tokens: Sequence[int], *, most: int | None = None, is_continuation: bool = False) -> bytes:
        """Return the bytes that the tokens stand for; control tokens stand for none.

        The spaces that `tokenize` puts in front are left out; `is_continuation` says that the tokens follow others, so
        that a first space was meant.

        Raises:
            TooLongError: there are more than `most` of them.
        """
        outputs = self._outputs(tokens, is_continuation)
        if most is not None and (count := sum(map(len, outputs))) > most:
            raise TooLongError(count)
        return b"".join(outputs)

    def _outputs(self, tokens: Sequence[int], is_continuation: bool) -> list[bytes]:
        entries = [self.entries[token] for token in tokens]
        if not self.adds_space:
            return [entry.output for entry in entries]
        outputs = []
        gets_space = not is_continuation
        for entry in entries:
            is_special = entry.attribute in _SPECIAL
            outputs.append(entry.output.removeprefix(b" ") if gets_space and not is_special else entry.output)
            gets_space = is_special
        return outputs

    def _steers(self, token: int, entry: Entry) -> bool:
        if entry.attribute in (Attribute.CONTROL, Attribute.UNKNOWN) or token in self.end_of_generation:
            return True
        if token in (self.bos, self.eos):
            return True
        spelling = entry.spelling.decode(errors="replace").strip()
        if entry.attribute == Attribute.USER_DEFINED:
            is_in_template = not all(c.isalnum() or c.isspace() for c in spelling) and spelling in self._templates
            return is_marker(spelling) or is_in_template
        return entry.attribute == Attribute.NORMAL and is_plain_marker(spelling)

    @cached_property
    def _longest(self) -> int:
        """The most bytes of a text that one id stands for."""
        return max(max(len(entry.spelling), len(entry.output), 1) for entry in self.entries)

    @cached_property
    def _strips(self) -> bool:
        """Whether white space beside some token is lost."""
        return any(llama_cpp.llama_vocab_get_attr(self._handle, token) & _STRIPS for token in range(self.size))

    def _pieces(self, text: str) -> list[tuple[str, bool]]:
        """Return a text whole, or parted at what control tokens are read of, where llama.cpp would search it for long.

        It looks for each of them in all of a text, and some vocabularies have thousands.
        """
        num_starts = sum(map(text.count, self._first_characters)) + len(text) // _SEARCHED_AT_ONCE
        if num_starts * len(self.steering) <= _MOST_COMPARED or self._strips:
            return [(text, True)]
        pieces = self.steering_spellings.split(text)
        return [(piece, index % 2 == 1) for index, piece in enumerate(pieces) if piece]

    @cached_property
    def _first_characters(self) -> frozenset[str]:
        return frozenset(spelling[0] for spelling in self.steering_texts if spelling)

    @cached_property
    def _mark(self) -> tuple[str, list[int]]:
        """A character that is part of no token, and its ids at the start of a text."""
        spellings = b"".join(entry.spelling for entry in self.entries).decode(errors="replace")
        mark = next((mark for mark in _NONCHARACTERS if mark not in spellings), _NONCHARACTERS[0])
        return mark, self._ids(mark, parse_special=False)

    def _continued(self, text: str, *, parse_special: bool) -> list[int]:
        """Tokenize what follows other text. llama.cpp would put a space in front, as if it were the start of one."""
        if not text or not self.adds_space:
            return self._ids(text, parse_special=parse_special)
        mark, marked = self._mark
        return self._ids(mark + text, parse_special=parse_special)[len(marked) :]

    def _ids(self, text: str, *, parse_special: bool) -> list[int]:
        data = text.encode()
        capacity = len(data) + 2
        ids = (llama_cpp.llama_token * capacity)()
        # llama.cpp's own way to add the first token adds a last one too where the file says so.
        count = llama_cpp.llama_tokenize(self._handle, data, len(data), ids, capacity, False, parse_special)
        if count < 0:
            capacity = -count
            ids = (llama_cpp.llama_token * capacity)()
            count = llama_cpp.llama_tokenize(self._handle, data, len(data), ids, capacity, False, parse_special)
        return ids[:count]

    def _output_of(self, tokens: Sequence[int]) -> bytes:
        return b"".join(self.entries[token].output for token in tokens)

    def _entry(self, token: int, buffer: ctypes.Array[ctypes.c_char]) -> Entry:
        return Entry(
            llama_cpp.llama_vocab_get_text(self._handle, token) or b"",
            self._output(token, buffer),
            _attribute(llama_cpp.llama_vocab_get_attr(self._handle, token)),
            token in self.end_of_generation,
        )

    def _output(self, token: int, buffer: ctypes.Array[ctypes.c_char]) -> bytes:
        count = llama_cpp.llama_token_to_piece(self._handle, token, buffer, len(buffer), 0, False)
        if count < 0:
            return self._output(token, ctypes.create_string_buffer(-count))
        return buffer.raw[:count]


@cache
def _attribute(bits: int) -> Attribute:
    return next((attribute for bit, attribute in _ATTRIBUTE_BITS if bits & bit), Attribute.NORMAL)


def _suppressed(handle: llama_cpp.llama_vocab_p) -> list[int]:
    """Return llama.cpp's list of suppressed ids, whose function llama-cpp-python does not declare."""
    function = _LIBRARY.llama_vocab_get_suppress_tokens
    function.restype = ctypes.POINTER(llama_cpp.llama_token)
    function.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32)]
    count = ctypes.c_int32()
    tokens = function(handle, ctypes.byref(count))
    return tokens[: count.value] if tokens else []
