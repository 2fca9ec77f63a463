"""Draws what `make demo` printed of its two conversations: `python docs/demo/picture.py runs/demo docs/demo/conversation.svg`."""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

run, picture = map(Path, sys.argv[1:])
console = Console(record=True, width=92, file=io.StringIO())
for name in ("english-1", "english-2", "chinese-1", "chinese-2"):
    console.print(f"[bold]$ memgpt chat --run demo --namespace {name[:-2]}[/]")
    for line in (run / f"{name}.txt").read_text(encoding="utf-8").splitlines()[1:]:
        style = "dim" if line.startswith(("#", "english:", "chinese:", " ", "forgot")) else ""
        shown = Text(line, style)
        shown.highlight_regex(r"^you>", "bold")
        shown.highlight_regex(r"^bot>", "bold green")
        console.print(shown)
console.save_svg(str(picture), title="memgpt")
