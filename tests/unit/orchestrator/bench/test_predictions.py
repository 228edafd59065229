"""What is expected where nobody has predicted anything."""

from difflib import SequenceMatcher

from orchestrator.bench.load.predictions import with_edits


def test_every_tenth_line_is_edited_in_turns() -> None:
    lines = [f"    line {number}\n" for number in range(30)]
    edited = with_edits("".join(lines)).splitlines(keepends=True)
    changes = [change for change in SequenceMatcher(None, lines, edited).get_opcodes() if change[0] != "equal"]
    assert [(kind, start, end) for kind, start, end, _, _ in changes] == [
        ("replace", 5, 6),
        ("delete", 15, 16),
        ("insert", 25, 25),
    ]
    assert all(line.startswith("    ") for line in edited)


def test_a_short_text_is_as_it_is() -> None:
    assert with_edits("a\nb\nc") == "a\nb\nc"
    assert with_edits("") == ""
