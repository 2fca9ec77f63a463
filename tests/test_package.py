"""The wheel holds its configuration: built, installed into a fresh environment, and asked for it there."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def build(folder: Path, *args: str) -> Path:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *args, str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.mark.parametrize("through", ["source distribution", "wheel alone"])
def test_an_installed_wheel_finds_its_configuration(tmp_path, through):
    wheel = build(tmp_path / "dist", *(["--wheel"] if through == "wheel alone" else []))
    names = zipfile.ZipFile(wheel).namelist()
    assert "memgpt_cli/conf/config.yaml" in names
    assert "memgpt_cli/data/bundled/dialog_babi/task5-trn.txt.xz" in names
    assert "memgpt_cli/data/bundled/dialog_babi/LICENSE.txt" in names
    assert "memgpt_cli/data/companion/words/people.yaml" in names
    assert "memgpt_cli/data/bundled/companion/model/model.safetensors" in names
    assert not any(n.startswith(("tests", "conf/", "docs")) for n in names)
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--no-deps", "--quiet", "--disable-pip-version-check", str(wheel)],
        check=True,
        timeout=120,
    )
    # the dependencies are this environment's; ours is not on that path, since an editable install is a .pth file
    environment = {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")}
    done = subprocess.run(
        [home / "bin" / "memgpt", "config", "train"], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "source: companion" in done.stdout
    assert str(home) in done.stdout, "it must be the installed configuration, not the repository's"


def test_the_top_level_is_what_it_should_be():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, cwd=ROOT)
    if listed.returncode:
        pytest.skip("no git checkout")
    top = {name.split("/")[0] for name in listed.stdout.splitlines()}
    allowed = {
        "memgpt_cli",
        "conf",
        "tests",
        "docs",
        "pyproject.toml",
        "Makefile",
        "README.md",
        "LICENSE",
        "constraints.txt",
        ".ci",
        ".gitignore",
    }
    assert top <= allowed, top - allowed
