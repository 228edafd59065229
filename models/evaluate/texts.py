"""Held-out source files, what is taken from them, and what is asked of text: does it parse, does it repeat itself."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Header:
    """A function in a source file: the file before its `def` line, its header up to the colon, and what follows."""

    before: str
    header: str
    rest: str


def function_headers(source: str) -> Iterator[Header]:
    """Every function of a source file whose header ends its line, without a comment.

    Raises SyntaxError for a file that is no Python.
    """
    lines = source.splitlines(keepends=True)
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            header = lines[node.lineno - 1 : node.body[0].lineno - 1]
            while header and not _code_of(header[-1]):
                header.pop()  # blank lines and comments between header and body
            text = "".join(header).rstrip()
            if text.endswith(":"):
                before = "".join(lines[: node.lineno - 1])
                yield Header(before, text, source[len(before) + len(text) :])


def _code_of(line: str) -> str:
    """A line without the white space around it; empty for a comment."""
    code = line.strip()
    return "" if code.startswith("#") else code


def function_parses(header: str, continuation: str) -> bool:
    """Whether a header and the whole lines of what follows it make a function; what lies beyond its end is left out.

    The last line of `continuation` counts as cut off unless it ends in a newline.
    """
    indent = _indent_of(header)
    first, *lines = whole_lines(continuation).splitlines(keepends=True) or [""]
    beyond = (place for place, line in enumerate(lines) if line.strip() and _indent_of(line) <= indent)
    body = "".join(lines[: next(beyond, len(lines))])
    # A method stands in a block, whichever.
    return parses(("if True:\n" if indent else "") + header + first + body)


def _indent_of(text: str) -> int:
    return len(text) - len(text.lstrip())


def whole_lines(text: str) -> str:
    """The text up to the end of its last whole line."""
    return text[: text.rfind("\n") + 1]


def parses(source: str) -> bool:
    """Whether a text is Python as a whole."""
    try:
        _parsed(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _parsed(source: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        return ast.parse(source)


def repeated_share(texts: Iterable[Sequence[int]], length: int = 8) -> float:
    """The share of runs of `length` tokens that occurred before in the same text; 0 where no text is long enough."""
    num_runs = num_repeated = 0
    for tokens in texts:
        runs = [tuple(tokens[start : start + length]) for start in range(len(tokens) - length + 1)]
        num_runs += len(runs)
        num_repeated += len(runs) - len(set(runs))
    return num_repeated / num_runs if num_runs else 0.0


@dataclass(frozen=True)
class Excerpt:
    """A place in a held-out file: the tokens before it, BOS first, and the ones that stand there."""

    prompt: Sequence[int]
    continuation: Sequence[int]


def excerpts(
    files: Sequence[Sequence[int]], bos: int, count: int, *, prompt_tokens: int, num_tokens: int, seed: int
) -> list[Excerpt]:
    """Up to `count` places drawn from tokenized files, spread evenly over the files that are long enough.

    A prompt has BOS and at most `prompt_tokens` tokens, at least a quarter of that; a continuation has `num_tokens`.
    """
    drawn: list[Excerpt] = []
    shortest = prompt_tokens // 4
    long_enough = [tokens for tokens in files if len(tokens) >= shortest + num_tokens]
    random = Random(seed)
    random.shuffle(long_enough)
    for index in range(count if long_enough else 0):
        tokens = long_enough[index % len(long_enough)]
        place = random.randint(shortest, len(tokens) - num_tokens)
        prompt = [bos, *tokens[max(0, place - prompt_tokens) : place]]
        drawn.append(Excerpt(prompt, tokens[place : place + num_tokens]))
    return drawn
