"""What is shown of a text, and what no terminal gets to obey."""

import unicodedata

import pytest

from services.frame.program.printable import one_line, printable

BIDIRECTIONAL = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def acts(character: str) -> bool:
    """Whether Unicode says that a character acts on what stands around it, or is none."""
    is_control = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    return (is_control and character not in "\t\n") or unicodedata.bidirectional(character) in BIDIRECTIONAL


def test_every_character_that_acts_is_spelled_out_and_no_other_is_touched() -> None:
    for character in map(chr, range(0x110000)):
        shown = printable(character)
        if acts(character):
            assert shown.isascii() and shown.isprintable() and shown[1] in "xu"
            assert int(shown[2:], 16) == ord(character)
        else:
            assert shown == character


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("\x1b[31m", "\\x1b[31m", id="ESC"),
        pytest.param("\x9b31m", "\\x9b31m", id="the CSI of C1"),
        pytest.param("a\r\n\tb\n", "a\\x0d\n\tb\n", id="carriage return"),
        pytest.param("\u202egnp.exe\u2069", "\\u202egnp.exe\\u2069", id="overrides"),
        pytest.param("\udcff", "\\udcff", id="a byte that is no UTF-8"),
        pytest.param("👩\u200d💻 日本 é [red]", "👩\u200d💻 日本 é [red]", id="nothing that acts"),
    ],
)
def test_how_it_is_spelled(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("the model is\n  missing\n", "the model is missing", id="several lines"),
        pytest.param("a\r\nb\rc\u2028d\u2029e\x85f", "a b c d e f", id="every line break"),
        pytest.param("my  models/a\tb", "my  models/a\tb", id="blanks within a line"),
        pytest.param("\n\n", "", id="nothing"),
        pytest.param("x\x1b]0;title\x07", "x\\x1b]0;title\\x07", id="what acts"),
    ],
)
def test_a_sentence_is_one_line(text: str, line: str) -> None:
    assert one_line(text) == line
