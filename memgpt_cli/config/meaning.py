"""What each setting means: its name, type and default from the dataclasses, its meaning from the comment beside it."""

import ast
import dataclasses
import inspect
import io
import tokenize
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from memgpt_cli.config.places import GROUPS, choices, conf_dir
from memgpt_cli.config.settings import Config
from memgpt_cli.errors import ConfigError


class Setting(NamedTuple):
    name: str
    kind: str
    default: Any
    meaning: str  # empty where its name says all


def settings(kind: Any = Config, place: str = "") -> Iterator[Setting]:
    """Every setting, in the order of the dataclasses."""
    hints, meanings = typing.get_type_hints(kind), _comments(kind)
    for field in dataclasses.fields(kind):
        hint, name = hints[field.name], f"{place}.{field.name}" if place else field.name
        if dataclasses.is_dataclass(hint):
            yield from settings(hint, name)
            continue
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        shown = getattr(hint, "__name__", str(hint)) if not typing.get_args(hint) else str(hint)
        yield Setting(name, shown, default, meanings.get(field.name, ""))


def _comments(kind: Any) -> dict[str, str]:
    """Field -> the comment on the lines that it stands on."""
    source = inspect.cleandoc("\n" + inspect.getsource(kind))
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            found[node.target.id] = " ".join(comments[line] for line in lines if line in comments)
    return found


def set_by(name: str, config_dir: Path | None = None) -> dict[str, Any]:
    """The presets that set it, as `group=preset`, and to what."""
    import yaml

    found: dict[str, Any] = {}
    for group in GROUPS:
        for preset in choices(group, config_dir):
            for root in (config_dir, conf_dir()):
                if root is not None and (file := root / group / f"{preset}.yaml").is_file():
                    try:
                        values = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
                    except (yaml.YAMLError, ValueError) as error:
                        raise ConfigError(f"{file} is no YAML") from error
                    path = name if group in ("experiment", "debug") else name.removeprefix(f"{group}.")
                    if path != name or group in ("experiment", "debug"):
                        value = _at(values, path)
                        if value is not None:
                            found[f"{group}={preset}"] = value
                    break
    return found


def _at(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values
