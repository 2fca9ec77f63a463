"""What reaches a terminal: words for people, JSON for scripts, and no control character of anybody else's.

A text from a store, a file's name, a reply: any of them may hold an escape sequence that clears the screen, renames the
window or hides what stands before it. Everything printed here goes through one of these two.
"""

import errno
import json
import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.errors import MarkupError
from rich.segment import Segment

_LINES = (9, 10)  # tab and newline move the cursor where it is expected
_CONTROL = [
    *(n for n in range(32) if n not in _LINES),
    *range(127, 160),
    0x2028,
    0x2029,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]
"""C0, DEL, C1 (Unicode 16, 23.1), line separators, and what reorders the text around it (UAX 9: embeddings, overrides, isolates)."""
_SHOWN = dict.fromkeys(_CONTROL, "\N{REPLACEMENT CHARACTER}")
_ESCAPED = {n: f"\\u{n:04x}" for n in _CONTROL if n >= 127}  # JSON escapes the first 32 itself


def visible(text: str) -> str:
    """The text with U+FFFD for every character that would steer the terminal."""
    return text.translate(_SHOWN)


def as_json_line(value: Any) -> str:
    """JSON of one line that may be shown on a terminal: nothing in it steers it, and it reads back as the value."""
    return json.dumps(value, ensure_ascii=False).translate(_ESCAPED)


class SafeConsole(Console):
    """Rich's console, which renders every text through `visible`; its own colours and bars are not text."""

    def render(self, *args: Any, **kwargs: Any) -> Iterable[Segment]:
        for segment in super().render(*args, **kwargs):
            shown = segment.text if segment.control else visible(segment.text)
            yield segment if shown == segment.text else Segment(shown, segment.style)

    def on_broken_pipe(self) -> None:
        """Rich would end the program here; who prints decides."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def print(self, *objects: Any, **kwargs: Any) -> None:
        try:
            super().print(*objects, **kwargs)
        except MarkupError:  # square brackets of a file's name
            super().print(*objects, **{**kwargs, "markup": False})
