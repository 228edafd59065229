"""What is expected of answers that nobody has predicted: what plain decoding says, with some lines changed."""

# One line of so many is changed, the first time in the middle of them.
_EVERY = 10


def with_edits(text: str) -> str:
    """Return the text with every tenth line edited: in turns another one, left out, and with one more before it."""
    lines = text.splitlines(keepends=True)
    for number, place in enumerate(range(_EVERY // 2, len(lines), _EVERY)):
        line = lines[place]
        indent = line[: len(line) - len(line.lstrip())]
        other = f"{indent}this was edited: line {place}\n"
        lines[place] = (other, "", other + line)[number % 3]
    return "".join(lines)
