"""Draws what `make demo` printed of its two conversations: `python docs/demo/picture.py runs/demo docs/demo/conversation.svg`."""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

run, picture = map(Path, sys.argv[1:])
console = Console(record=True, width=92, file=io.StringIO())
for name in ("first.txt", "second.txt"):
    console.print("[bold]$ memgpt chat --run demo[/]")
    for line in (run / name).read_text(encoding="utf-8").splitlines()[1:]:
        style = "dim" if line.startswith(("#", "demo:", "  ", "forgot")) else ""
        shown = Text(line, style)
        shown.highlight_regex(r"^you>", "bold")
        shown.highlight_regex(r"^bot>", "bold green")
        console.print(shown)
console.save_svg(str(picture), title="memgpt")
