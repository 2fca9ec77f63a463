"""docs/cli.md and docs/settings.md, written from the code: `python -m memgpt_cli.cli.reference docs`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from _commands(child, f"{path} {name}")
    else:
        yield path, command


def _parameter(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"| `{parameter.metavar or parameter.name.upper()}` | {parameter.help or ''} |"
    names = ", ".join(f"`{name}`" for name in parameter.opts)
    default = parameter.default
    shown = f" (default: `{default}`)" if default not in (None, False, "", ()) and not callable(default) else ""
    return f"| {names} | {(parameter.help or '').replace('|', chr(92) + '|')}{shown} |"


def reference() -> str:
    """The command reference as Markdown."""
    from memgpt_cli.cli import app, load_commands

    load_commands()

    lines = ["# Commands", "", "<!-- written by `make docs` from the code; a test keeps it true -->", ""]
    lines += [
        "Settings are `key=value` and presets `group=preset`, after the command: see [configuration](configuration.md).",
        "",
    ]
    for path, command in _commands(typer.main.get_command(app), "memgpt"):
        lines += [f"## {path}", "", (command.help or "").strip(), "", (command.epilog or "").strip(), ""]
        rows = [_parameter(p) for p in command.params if p.name != "help" and not getattr(p, "hidden", False)]
        if rows:
            lines += ["| argument | meaning |", "| --- | --- |", *rows, ""]
    return "\n".join(lines).rstrip() + "\n"


def settings_reference() -> str:
    """Every setting as Markdown, with what it means."""
    from memgpt_cli.config.meaning import settings

    lines = ["# Settings", "", "<!-- written by `make docs` from the code; a test keeps it true -->", ""]
    lines += ["`memgpt config explain KEY` tells the same, and which presets set it.", ""]
    group = None
    for setting in settings():
        place = setting.name.rpartition(".")[0]
        if place != group:
            lines += ["", f"## {place or 'the run'}", "", "| setting | default | meaning |", "| --- | --- | --- |"]
            group = place
        meaning = setting.meaning.replace("|", chr(92) + "|")
        lines.append(f"| `{setting.name}` | `{setting.default!r}` | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "cli.md").write_text(reference(), encoding="utf-8")
    (folder / "settings.md").write_text(settings_reference(), encoding="utf-8")
