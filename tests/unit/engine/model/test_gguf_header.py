"""Headers that contradict themselves or their file: one sentence with the field and the value, whatever is wrong."""

import random
import struct
from collections.abc import Callable, Mapping

import pytest

from services.engine.model.gguf_header import Header, HeaderError
from tests.unit.engine.model.gguf_bytes import (
    DIM,
    NUM_TOKENS,
    TensorSpec,
    Typed,
    Value,
    gguf_bytes,
    llama_fields,
    llama_tensors,
)

FIELDS, TENSORS = llama_fields(), llama_tensors()


def test_what_is_true_is_read() -> None:
    fields = FIELDS | {"a.list": [1, 2, 3], "a.number": Typed(11, -5), "a.text": "é", "a.flag": True, "no.list": []}
    header = Header(gguf_bytes(fields))
    assert header.text("general.architecture") == "llama"
    assert header.text("a.text") == "é"
    assert list(header.texts("tokenizer.ggml.tokens")) == [b"token %d" % token for token in range(NUM_TOKENS)]
    assert header.integers("a.list") == [1, 2, 3]
    assert header.integer("a.number", 0) == -5
    assert header.numbers("llama.rope.freq_base") == [10000.0]
    assert header.integers("llama.rope.freq_base") == header.integers("a.text") == header.integers("absent") == []
    assert header.text("a.list") == header.text("absent") == ""
    assert list(header.texts("no.list")) == []
    assert header.integers("a.flag") == [1]
    assert [tensor.name for tensor in header.tensors] == list(TENSORS)
    assert (header.tensors[0].row_length, header.tensors[0].num_rows) == (DIM, NUM_TOKENS)


@pytest.mark.parametrize("version", [2, 3])
def test_versions(version: int) -> None:
    Header(gguf_bytes(version=version))


def _tensors(**changed: TensorSpec) -> bytes:
    """A file whose last tensor is another one, or that has more of them."""
    tensors = TENSORS | {f"{name}.weight": tensor for name, tensor in changed.items()}
    return gguf_bytes(FIELDS, tensors, num_data_bytes=1 << 19)


def _twice(data: bytes) -> bytes:
    """Give the last tensor the name of another one, of the same length."""
    return data.replace(b"blk.1.ffn_down", b"blk.1.ffn_gate")


LIES: dict[str, tuple[Callable[[], bytes], str]] = {
    "no version": (lambda: gguf_bytes(version=0), "its GGUF version is 0"),
    "old version": (lambda: gguf_bytes(version=1), "its GGUF version is 1"),
    "other byte order": (lambda: gguf_bytes(version=3 << 24), "its GGUF version is 50331648"),
    "another word": (lambda: b"GGML" + gguf_bytes()[4:], "does not begin with GGUF"),
    "fewer than no fields": (lambda: gguf_bytes(num_fields=-1), "number of fields is -1"),
    "too many fields": (lambda: gguf_bytes(num_fields=2**60), f"number of fields is {2**60}"),
    "fewer than no tensors": (lambda: gguf_bytes(num_tensors=-1), "number of tensors is -1"),
    "too many tensors": (lambda: gguf_bytes(num_tensors=2**60), f"number of tensors is {2**60}"),
    "key twice": (
        lambda: gguf_bytes(FIELDS | {"llama.context_lengtX": 1}).replace(b"lengtX", b"length"),
        "is 'llama.context_length': it must be printable and be there once",
    ),
    "empty key": (lambda: gguf_bytes(FIELDS | {"": 1}), "is '': it must be printable"),
    "no such type": (lambda: gguf_bytes(FIELDS | {"a.field": Typed(13, b"")}), "a.field is of type 13"),
    "list of lists": (lambda: gguf_bytes(FIELDS | {"a.field": [Typed(9, b"")]}), "a.field is of type 9"),
    "endless list": (
        lambda: gguf_bytes(FIELDS | {"a.field": Typed(9, struct.pack("<IQ", 4, 2**62))}),
        f"a.field has {2**62} elements",
    ),
    "list longer than the file": (
        lambda: gguf_bytes(FIELDS | {"a.field": Typed(9, struct.pack("<IQ", 10, 2**20))}),
        f"a.field takes {8 * 2**20} bytes",
    ),
    "more texts than the file holds": (
        lambda: gguf_bytes(FIELDS | {"a.field": Typed(9, struct.pack("<IQ", 8, 2**20))}, num_data_bytes=0),
        "a.field ends at byte",
    ),
    "endless text": (
        lambda: gguf_bytes(FIELDS | {"a.field": Typed(8, b"")}).replace(
            b"a.field\x08\0\0\0" + bytes(8), b"a.field\x08\0\0\0" + b"\xff" * 8
        ),
        "a.field takes ",
    ),
    "alignment 0": (lambda: gguf_bytes(FIELDS | {"general.alignment": 0}), "general.alignment is 0"),
    "alignment 24": (lambda: gguf_bytes(FIELDS | {"general.alignment": 24}), "general.alignment is 24"),
    "alignment text": (lambda: gguf_bytes(FIELDS | {"general.alignment": "32"}), "general.alignment is of another"),
    "alignment negative": (
        lambda: gguf_bytes(FIELDS | {"general.alignment": Typed(5, -32)}),
        "general.alignment is of another",
    ),
    "alignment larger than the file": (
        lambda: gguf_bytes(FIELDS | {"general.alignment": 2**31}),
        "token_embd.weight ends at byte",
    ),
    "no name": (lambda: gguf_bytes(FIELDS, {"": TensorSpec((1,))}), "a tensor is named ''"),
    "long name": (
        lambda: gguf_bytes(FIELDS, {"x" * 64: TensorSpec((1,))}),
        "it must be printable and have 1 to 63 bytes",
    ),
    "name with a zero": (lambda: gguf_bytes(FIELDS, {"a\0b": TensorSpec((1,))}), "is named 'a\\x00b'"),
    "tensor twice": (lambda: _twice(gguf_bytes()), "blk.1.ffn_gate.weight is there twice"),
    "five dimensions": (lambda: _tensors(more=TensorSpec((1,) * 5)), "more.weight has 5 dimensions"),
    "dimension 0": (lambda: _tensors(more=TensorSpec((32, 0))), "more.weight has a dimension of 0"),
    "negative dimension": (lambda: _tensors(more=TensorSpec((-32, 2))), "more.weight has a dimension of -32"),
    "too many numbers": (lambda: _tensors(more=TensorSpec((2**32,) * 4)), "more.weight has the shape"),
    "tensor larger than the file": (lambda: _tensors(more=TensorSpec((2**40,))), "it was cut off"),
    "no such tensor type": (lambda: _tensors(more=TensorSpec((32,), kind=99)), "more.weight is of type 99"),
    "type of old": (lambda: _tensors(more=TensorSpec((32,), kind=4)), "more.weight is of type 4"),
    "half a block": (lambda: _tensors(more=TensorSpec((48, 2), kind=8)), "more.weight has rows of 48 numbers"),
    "offset before": (lambda: _tensors(more=TensorSpec((32,), offset=0)), "more.weight lies at offset 0"),
    "offset beyond": (lambda: _tensors(more=TensorSpec((32,), offset=2**63)), f"lies at offset {2**63}"),
    "cut off": (lambda: gguf_bytes()[:-1], "it was cut off"),
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies(name: str) -> None:
    make, expected = LIES[name]
    with pytest.raises(HeaderError) as refused:
        Header(make())
    assert expected in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("padding", range(0, 32, 8))
def test_a_small_alignment_is_taken_where_tensors_lie_right_nevertheless(padding: int) -> None:
    """Its tensors follow one another in steps of 32 bytes, wherever the first one lies."""
    fields = FIELDS | {"general.alignment": 8}
    text = "x" * ((padding - len(_head(fields | {"text": ""}))) % 32)
    data = _head(fields | {"text": text})
    assert len(data) % 32 == padding
    whole = data + bytes(len(gguf_bytes()))
    if padding:
        with pytest.raises(HeaderError, match=f"lies at byte {len(data)}: general.alignment must be at least 32"):
            Header(whole)
    else:
        Header(whole)


def _head(fields: Mapping[str, Value]) -> bytes:
    """What comes before the weights."""
    return gguf_bytes(fields, alignment=1, num_data_bytes=0)


def test_wherever_a_file_ends_too_early() -> None:
    whole = gguf_bytes()
    rng = random.Random(0)
    for end in [*range(4, 600), *(rng.randrange(600, len(whole)) for _ in range(100))]:
        with pytest.raises(HeaderError):
            Header(whole[:end])


def test_whichever_bytes_are_damaged() -> None:
    """A damaged number may still be one that can be true; nothing else than a sentence comes of those that cannot."""
    whole = gguf_bytes()
    size = len(gguf_bytes(num_data_bytes=0))
    rng = random.Random(1)
    num_refused = 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(size)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            Header(bytes(damaged))
        except HeaderError as error:
            num_refused += 1
            assert len(str(error).splitlines()) == 1
    assert num_refused > 100
