"""The layers of DESIGN: a file imports only from layers above its own; help loads no torch."""

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = [
    ["errors", "schema", "__init__"],
    ["config", "tokenizer", "hub", "files", "memory", "ingest", "evaluation.metrics"],
    ["model"],
    ["checkpoint", "data"],
    ["training", "generation"],
    ["evaluation", "chat", "export"],
    ["cli", "__main__"],
]
NO_TORCH = ("errors", "schema", "config", "tokenizer", "hub", "files", "memory", "ingest", "evaluation.metrics", "cli")


def layer_of(module: str) -> int:
    best, found = -1, len(LAYERS) - 1
    for n, names in enumerate(LAYERS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and len(name) > best:
                best, found = len(name), n
    assert best >= 0, f"{module} belongs to no layer"
    return found


def modules():
    for path in sorted((ROOT / "memgpt_cli").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT / "memgpt_cli").with_suffix("").parts).removesuffix(".__init__")
        yield name, ast.parse(path.read_text())


def imported(tree, top_level_only=False):
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_a_file_imports_only_from_layers_above():
    for name, tree in modules():
        for module in imported(tree):
            if module.startswith("memgpt_cli."):
                other = module.removeprefix("memgpt_cli.")
                assert layer_of(other) <= layer_of(name), f"{name} imports {module} from a lower layer"


def test_the_store_and_the_command_line_load_no_torch():
    for name, tree in modules():
        if name.startswith(NO_TORCH) and not name.startswith("evaluation.e"):
            heavy = [m for m in imported(tree, top_level_only=True) if m.split(".")[0] in ("torch", "lightning")]
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
