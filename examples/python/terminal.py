"""What a terminal gets of a text: all of it, and nothing that it would obey."""

import os
import re
import sys

# C0 but tab and line feed, DEL, C1, line and paragraph separator, overrides and isolates of direction.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return the text with whatever acts on a terminal spelled out, as in `\\x9b`."""
    return _ACTING.sub(lambda found: f"\\x{code:02x}" if (code := ord(found[0])) < 256 else f"\\u{code:04x}", text)


def write(text: str) -> None:
    """Write text to stdout at once, as it is unless that is a terminal. Ends the program where it cannot be written."""
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        print(printable(text) if sys.stdout.isatty() else text, end="", flush=True)
    except OSError as error:
        # What is left in the buffer would fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"cannot write to stdout: {error.strerror}")
