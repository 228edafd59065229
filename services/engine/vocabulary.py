"""The tokens of a model, and text to ids and back, as llama.cpp does it."""

import ctypes
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property

import llama_cpp
from llama_cpp.llama_cpp import _lib as _LIBRARY

from services.engine.errors import TooLongError


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


@dataclass(frozen=True)
class Entry:
    """One id: its spelling in the file, the bytes it adds to the output, its kind."""

    spelling: bytes
    output: bytes
    attribute: Attribute
    is_end_of_generation: bool


class Vocabulary:
    """The vocabulary of a loaded model. Safe to use from any thread: llama.cpp only reads it."""

    def __init__(self, handle: llama_cpp.llama_vocab_p, further_ends: Collection[int] = ()) -> None:
        """Read it. `further_ends` end a generation beside the ids that do by the file.

        Raises:
            ValueError: one of them is outside the vocabulary.
        """
        self._handle = handle
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

    def tokenize(self, text: str, *, add_bos: bool, parse_special: bool, most: int = _MOST_IDS) -> list[int]:
        """Turn text into ids; `add_bos` puts the first token in front where the model wants one.

        Raises:
            TooLongError: there are more than `most` of them.
        """
        data = text.encode()
        capacity = len(data) + 2
        ids = (llama_cpp.llama_token * capacity)()
        # llama.cpp's own way to add the first token adds a last one too where the file says so.
        count = llama_cpp.llama_tokenize(self._handle, data, len(data), ids, capacity, False, parse_special)
        if count < 0:
            capacity = -count
            ids = (llama_cpp.llama_token * capacity)()
            count = llama_cpp.llama_tokenize(self._handle, data, len(data), ids, capacity, False, parse_special)
        first = [self.bos] if add_bos and self.adds_bos and self.bos is not None else []
        if len(first) + count > most:
            raise TooLongError(len(first) + count)
        return first + ids[:count]

    def detokenize(self, tokens: Sequence[int], *, most: int | None = None) -> bytes:
        """Return the bytes that the tokens stand for; control tokens stand for none.

        Raises:
            TooLongError: there are more than `most` of them.
        """
        outputs = [self.entries[token].output for token in tokens]
        if most is not None and (count := sum(map(len, outputs))) > most:
            raise TooLongError(count)
        return b"".join(outputs)

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
