"""What a GGUF file says of itself, read from its bytes and checked against their number; nothing is loaded.

llama.cpp reads the same, but trusts some numbers, so that it would end the process or fill the memory for them. So does
the package `gguf`: its reader takes what lies beyond a file's end for empty, and would go through as many elements of
that as the file claims.
"""

import ctypes
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap

import llama_cpp
from llama_cpp._ggml import libggml

Number = int | float

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
# gguf.h's numbers for types of values, as struct knows them.
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_SHORT, _UNSIGNED, TEXT, _LIST, _LENGTH = 2, 4, 8, 9, 10
# What takes the least: a field has a key of one byte, a type and a byte; a tensor has a name, no dimensions, a place.
_LEAST_FIELD_BYTES, _LEAST_TENSOR_BYTES = 14, 24
_MOST_ELEMENTS = 1 << 24
_MOST_NAME_BYTES, _MOST_DIMENSIONS = 63, 4
_DEFAULT_ALIGNMENT = 32
# Tensors are mapped from the file, and computed with only where they lie at a multiple of this.
_MAPPED_ALIGNMENT = 32
_MOST_NUMBERS = 2**63 - 1
_MOST_SHOWN = 60

libggml.ggml_blck_size.restype = ctypes.c_int64
libggml.ggml_type_size.restype = ctypes.c_size_t


class HeaderError(Exception):
    """A file that cannot be true; the message names what and its value."""


@dataclass(frozen=True)
class Field:
    """Where values lie: `count` of them, of one of gguf.h's types."""

    kind: int
    count: int
    is_list: bool
    start: int


@dataclass(frozen=True)
class Tensor:
    """A tensor: its shape as ggml tells it, the length of a row first; its type, and the bytes that it takes."""

    name: str
    shape: Sequence[int]
    kind: int
    offset: int
    num_bytes: int

    @property
    def row_length(self) -> int:
        """Numbers of a row."""
        return self.shape[0] if self.shape else 1

    @property
    def num_rows(self) -> int:
        """Rows of a matrix, or of all matrices of a stack."""
        return math.prod(self.shape[1:])


class Header:
    """Fields by name, and tensors. Values are read when they are asked for: `data` must stay open as long."""

    def __init__(self, data: bytes | mmap) -> None:
        """Read `data`, a whole file. Raises HeaderError for one that contradicts itself."""
        self._data = data
        reader = _Reader(data)
        num_tensors, num_fields = reader.counts()
        self.fields = reader.fields(num_fields)
        alignment = self._alignment()
        self.tensors = [reader.tensor() for _ in range(num_tensors)]
        _check_places(self.tensors, -(-reader.position // alignment) * alignment, alignment, len(data))

    def text(self, key: str) -> str:
        """Return a text, empty when absent or of another type."""
        field = self.fields.get(key)
        if field is None or field.kind != TEXT or field.is_list:
            return ""
        return next(self._texts(field)).decode(errors="replace")

    def texts(self, key: str) -> Iterator[bytes]:
        """Return a list of texts, empty when absent or of another type."""
        field = self.fields.get(key)
        return self._texts(field) if field is not None and field.kind == TEXT else iter(())

    def numbers(self, key: str) -> list[Number]:
        """Return a list of numbers, with one element for a single one; empty when absent or no numbers."""
        field = self.fields.get(key)
        if field is None or field.kind == TEXT:
            return []
        return list(struct.unpack_from(f"<{field.count}{_FORMATS[field.kind]}", self._data, field.start))

    def integers(self, key: str) -> list[int]:
        """Return a list of integers, with one element for a single one; empty when absent or of another type."""
        return [number for number in self.numbers(key) if isinstance(number, int)]

    def integer(self, key: str, default: int) -> int:
        """Return a single integer, of a list the first."""
        return next(iter(self.integers(key)), default)

    def is_short(self, key: str) -> bool:
        """Whether a field is a number of the type that llama.cpp takes for the numbers of parts."""
        return key in self.fields and self.fields[key].kind == _SHORT and not self.fields[key].is_list

    def _texts(self, field: Field) -> Iterator[bytes]:
        start = field.start
        for _ in range(field.count):
            (size,) = _unpack_length(self._data, start)
            yield bytes(self._data[start + 8 : start + 8 + size])
            start += 8 + size

    def _alignment(self) -> int:
        field = self.fields.get("general.alignment")
        alignment = self.integer("general.alignment", _DEFAULT_ALIGNMENT)
        if field is not None and (field.kind != _UNSIGNED or field.is_list):
            raise HeaderError("general.alignment is of another type than a number of 4 bytes")
        if alignment < 1 or alignment & (alignment - 1):
            raise HeaderError(f"general.alignment is {alignment}: it must be a power of two")
        return alignment


def shown(text: str) -> str:
    """Return a text as a sentence can hold it."""
    return repr(text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "...")


_unpack_length = struct.Struct("<Q").unpack_from


class _Reader:
    """Goes through a header from its first byte to its last."""

    def __init__(self, data: bytes | mmap) -> None:
        self._data = data
        self.position = 0

    def counts(self) -> tuple[int, int]:
        """Return how many tensors and how many fields follow."""
        if self._bytes(len(MAGIC), "the file's first word") != MAGIC:
            raise HeaderError("it does not begin with GGUF")
        version = self._number("I", "the version")
        if version not in _VERSIONS:
            raise HeaderError(f"its GGUF version is {version}: it must be {' or '.join(map(str, _VERSIONS))}")
        num_tensors = self._number("q", "the number of tensors")
        num_fields = self._number("q", "the number of fields")
        most_bytes = len(self._data) - self.position
        for name, count, least in (
            ("tensors", num_tensors, _LEAST_TENSOR_BYTES),
            ("fields", num_fields, _LEAST_FIELD_BYTES),
        ):
            if not 0 <= count * least <= most_bytes:
                raise HeaderError(f"its number of {name} is {count}: its {len(self._data)} bytes cannot hold so many")
        return num_tensors, num_fields

    def fields(self, count: int) -> dict[str, Field]:
        """Read fields, by their keys."""
        fields: dict[str, Field] = {}
        for index in range(count):
            key = self._text(f"the key of field {index}").decode(errors="replace")
            if not key or not key.isprintable() or key in fields:
                raise HeaderError(f"the key of field {index} is {shown(key)}: it must be printable and be there once")
            fields[key] = self._field(key)
        return fields

    def _field(self, key: str) -> Field:
        kind, count = self._number("I", key), 1
        is_list = kind == _LIST
        if is_list:
            kind, count = self._number("I", key), self._number("Q", key)
        if kind != TEXT and kind not in _FORMATS:
            raise HeaderError(f"{key} is of type {kind}, which there is not")
        if count > _MOST_ELEMENTS:
            raise HeaderError(f"{key} has {count} elements: at most {_MOST_ELEMENTS} are read")
        field = Field(kind, count, is_list, self.position)
        if kind == TEXT:
            self._skip_texts(count, key)
        else:
            self._skip(count * struct.calcsize("<" + _FORMATS[kind]), key)
        return field

    def tensor(self) -> Tensor:
        """Read the description of a tensor."""
        raw = self._text("the name of a tensor")
        name = raw.decode(errors="replace")
        if not 0 < len(raw) <= _MOST_NAME_BYTES or not name.isprintable():
            raise HeaderError(f"a tensor is named {shown(name)}: it must be printable and have 1 to 63 bytes")
        num_dimensions = self._number("I", name)
        if num_dimensions > _MOST_DIMENSIONS:
            raise HeaderError(f"the tensor {name} has {num_dimensions} dimensions: it must have at most 4")
        shape = [self._number("q", name) for _ in range(num_dimensions)]
        kind, offset = self._number("I", name), self._number("Q", name)
        return Tensor(name, shape, kind, offset, _stored_bytes(name, shape, kind))

    def _number(self, code: str, what: str) -> int:
        number: int = struct.unpack("<" + code, self._bytes(struct.calcsize("<" + code), what))[0]
        return number

    def _text(self, what: str) -> bytes:
        return self._bytes(self._number("Q", what), what)

    def _bytes(self, count: int, what: str) -> bytes:
        start = self.position
        self._skip(count, what)
        return bytes(self._data[start : self.position])

    def _skip(self, count: int, what: str) -> None:
        if count > len(self._data) - self.position:
            raise HeaderError(f"{what} takes {count} bytes at byte {self.position} of a file of {len(self._data)}")
        self.position += count

    def _skip_texts(self, count: int, what: str) -> None:
        """Go past texts. Vocabularies have hundreds of thousands: nothing is done here that is not needed."""
        data, position = self._data, self.position
        try:
            for _ in range(count):
                position += 8 + _unpack_length(data, position)[0]
        except (struct.error, OverflowError) as error:
            raise HeaderError(f"{what} ends at byte {position} of a file of {len(data)}") from error
        self._skip(position - self.position, what)


def _stored_bytes(name: str, shape: Sequence[int], kind: int) -> int:
    for size in shape:
        if size < 1:
            raise HeaderError(f"the tensor {name} has a dimension of {size}: it must be at least 1")
    if math.prod(shape) > _MOST_NUMBERS:
        raise HeaderError(f"the tensor {name} has the shape {list(shape)}: so many numbers cannot be counted")
    block = libggml.ggml_blck_size(kind) if kind < llama_cpp.GGML_TYPE_COUNT else 0
    if not block:
        raise HeaderError(f"the tensor {name} is of type {kind}, which there is not")
    length = shape[0] if shape else 1
    if length % block:
        raise HeaderError(f"the tensor {name} has rows of {length} numbers: its type {kind} has blocks of {block}")
    return math.prod(shape) // block * int(libggml.ggml_type_size(kind))


def _check_places(tensors: Sequence[Tensor], start: int, alignment: int, num_bytes: int) -> None:
    """Raise HeaderError unless tensors follow one another and end within the file. `start` is where the first lies."""
    names: set[str] = set()
    offset = 0
    for tensor in tensors:
        if tensor.name in names:
            raise HeaderError(f"the tensor {tensor.name} is there twice")
        names.add(tensor.name)
        if tensor.offset != offset:
            raise HeaderError(f"the tensor {tensor.name} lies at offset {tensor.offset}: it must be {offset}")
        place = start + offset
        if place % _MAPPED_ALIGNMENT:
            raise HeaderError(f"the tensor {tensor.name} lies at byte {place}: general.alignment must be at least 32")
        if place + tensor.num_bytes > num_bytes:
            raise HeaderError(
                f"the tensor {tensor.name} ends at byte {place + tensor.num_bytes}, the file at {num_bytes}: "
                "it was cut off"
            )
        offset = -(-(offset + tensor.num_bytes) // alignment) * alignment
