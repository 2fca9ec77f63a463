"""The rooms of DESIGN: a file imports only from rooms above its own, within a room there is no circle; help loads no torch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = (
    ("errors",), ("schema",), ("files", "extras", "plugins", "scripts"), ("config",), ("hub",), ("tokenizer",), ("store", "ingest"), ("model",),
    ("checkpoint",), ("data",), ("training",), ("inference",), ("evaluation",), ("export", "chat", "bench"), ("cli", "__main__"),
)  # fmt: skip
"""From above; those that stand together may use each other. `__init__` of the package is everybody's, and loads its rooms late."""
NO_TORCH = ("errors", "schema", "files", "extras", "plugins", "config", "hub", "tokenizer", "store", "ingest", "evaluation.metrics", "bench.store", "cli")  # fmt: skip


def modules() -> dict[str, ast.Module]:
    """Module -> its tree; packages by their own name."""
    found = {}
    for path in sorted((ROOT / "memgpt_cli").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imported(name: str, tree: ast.AST, top_level_only: bool = False, typing_too: bool = True) -> set[str]:
    """The modules that a module imports; `from memgpt_cli import hub` is memgpt_cli.hub."""
    nodes = tree.body if top_level_only else ast.walk(tree)
    hidden = set()
    if not typing_too:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
                hidden |= {id(inner) for inner in ast.walk(node)}
    found = set()
    for node in nodes:
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {full if full in MODULES else node.module for full in inner}
    return found


def room_of(module: str) -> int:
    name = module.removeprefix("memgpt_cli.")
    if module == "memgpt_cli":
        return -1
    for n, rooms in enumerate(ROOMS):
        if name.split(".")[0] in rooms:
            return n
    raise AssertionError(f"{module} belongs to no room")


def test_a_file_imports_only_from_rooms_above_its_own():
    for name, tree in MODULES.items():
        for other in imported(name, tree):
            if other.startswith("memgpt_cli") and name != "memgpt_cli":
                assert room_of(other) <= room_of(name), f"{name} imports {other} from a room below"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of a graph, empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def test_there_is_no_circle():
    """Late imports inside functions count; what only type checkers read does not, nor does a package's own `__init__`."""
    graph = {
        name: {
            o
            for o in imported(name, tree, typing_too=False)
            if o in MODULES and not name.startswith(o + ".") and o != "memgpt_cli"
        }
        for name, tree in MODULES.items()
        if name != "memgpt_cli"
    }
    assert circle(graph) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c"]


def test_the_imports_that_once_escaped_are_seen():
    (tree,) = (ast.parse("def f():\n    from memgpt_cli import hub, plugins\n"),)
    assert imported("x", tree) == {"memgpt_cli.hub", "memgpt_cli.plugins"}


def test_the_store_and_the_command_line_load_no_torch():
    for name, tree in MODULES.items():
        if name.removeprefix("memgpt_cli.").startswith(NO_TORCH) or name == "memgpt_cli":
            heavy = {m for m in imported(name, tree, top_level_only=True) if m.split(".")[0] in ("torch", "lightning")}
            assert not heavy, f"{name} imports {heavy}"


def test_help_loads_neither_torch_nor_lightning_nor_hydra():
    code = (
        "import sys; sys.argv=['memgpt','--help']\n"
        "from memgpt_cli.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "bad=[m for m in ('torch','lightning','hydra','datasets','numpy') if m in sys.modules]\n"
        "print('LOADED', bad)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "100"}
    )
    assert "LOADED []" in out.stdout, out.stdout + out.stderr
    assert "preprocess" in out.stdout


def test_names_say_what_a_file_holds():
    assert not {p.stem for p in (ROOT / "memgpt_cli").rglob("*.py")} & {"utils", "common", "helpers", "misc"}


@pytest.mark.parametrize(("what", "most"), [("file", 400), ("function", 50)])
def test_nothing_is_too_long(what, most):
    for name, tree in MODULES.items():
        if what == "file":
            length = (
                len((ROOT / "memgpt_cli").parent.joinpath(*name.split(".")).with_suffix(".py").read_text().splitlines())
                if (ROOT.joinpath(*name.split(".")).with_suffix(".py")).is_file()
                else 0
            )
            assert length <= most, f"{name} has {length} lines"
        else:
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    body = node.end_lineno - node.body[0].lineno + 1
                    assert body <= most, f"{name}.{node.name} has {body} lines"
