"""Where the lines of prose end in a terminal, as it comes in pieces."""

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from orchestrator.cli.wrapping import WordWrap


def written(*pieces: str, width: int = 12) -> str:
    """What is on the screen when all has come."""
    parts: list[str] = []
    words = WordWrap(lambda text, _: parts.append(text), lambda: width)
    for piece in pieces:
        words.add(piece, "")
    words.flush()
    return "".join(parts)


def test_lines_end_between_words() -> None:
    assert written("The queen bee ", "lays eggs.") == "The queen\nbee lays\neggs."


def test_a_word_in_pieces_stays_whole() -> None:
    assert written("they make", " hon", "ey", "comb", ".") == "they make\nhoneycomb."


def test_a_word_that_just_fits() -> None:
    assert written("twelve cells", " and more") == "twelve cells\nand more"


def test_blanks_and_lines_of_the_text_are_kept() -> None:
    text = "a  b\n\n    c\td\n"
    assert written(text) == text


def test_a_word_longer_than_a_line_is_the_terminals() -> None:
    assert written("see ", "https://example", ".org/long") == "see\nhttps://example.org/long"


def test_code_is_not_wrapped() -> None:
    code = "```python\nreturn first + second\n```\n"
    assert written(code, "return first + second") == code + "return first\n+ second"


def test_a_fence_within_a_line_begins_no_code() -> None:
    assert written("write ``` before some code\n") == "write ```\nbefore some\ncode\n"


def test_what_needs_no_blanks_is_not_waited_for() -> None:
    parts: list[str] = []
    words = WordWrap(lambda text, _: parts.append(text), lambda: 12)
    words.add("日本", "")
    words.add("語", "")
    assert parts == ["日本", "語"]


def test_each_piece_keeps_its_style() -> None:
    parts: list[tuple[str, str]] = []
    words = WordWrap(lambda text, style: parts.append((text, style)), lambda: 80)
    words.add("honey", "green")
    words.add("comb s", "cyan")
    words.flush()
    assert parts == [("honey", "green"), ("comb", "cyan"), (" ", "cyan"), ("s", "cyan")]


@given(st.lists(st.text(alphabet="ab \n\t`"), max_size=20), st.integers(min_value=4, max_value=20))
def test_nothing_is_lost_and_lines_fit(pieces: list[str], width: int) -> None:
    text = "".join(pieces)
    shown = written(*pieces, width=width)
    assert shown.split() == text.split()
    assert written(*pieces, width=1 << 20) == text
    if "`" not in text and "\t" not in text and all(len(word) < width for word in text.split()):
        # Blanks at the ends of lines, and before the first word of one, are the text's own.
        assert all(cell_len(line.strip()) <= width for line in shown.split("\n"))
