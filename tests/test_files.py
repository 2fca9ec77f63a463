"""The law of names, folders and files: only what is ours is replaced or deleted, and nothing outside the roots changes."""

import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memgpt_cli import files
from memgpt_cli.config import DataConfig
from memgpt_cli.data.dataset import DATA_SET
from memgpt_cli.data.preprocess import preprocess
from memgpt_cli.errors import BusyError, UsageError
from memgpt_cli.files import Kind, check_own, locked, new_folder, plain_name, remove_folder, settle, slug, writing

KIND = Kind("a thing", "thing.json", ("it",), ("thing.json", "data/*.txt"))


def make(folder: Path, *names: str) -> Path:
    """A folder of our kind, with more files in it."""
    folder.mkdir(parents=True)
    (folder / "thing.json").write_text('{"it": 1}')
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    return folder


def everything(root: Path) -> dict[str, str]:
    """Every path below a folder with what it is and holds."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path)] = "-> " + os.readlink(path)
        else:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


@pytest.mark.parametrize("name", ["a", "Anna's".replace("'", "-"), "数据-1", "x.y_z", "0"])
def test_plain_names_are_names(name):
    assert plain_name(name, "data.name") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "/a", "a/b", "~", "a\\b", "a b", "a\nb", "a*", "x" * 200, "\udc80", "a\0b"]
)
def test_paths_are_no_names(name):
    with pytest.raises(UsageError, match=r"data.name is .* expected a plain name: letters, digits"):
        plain_name(name, "data.name")
    assert plain_name(slug(name), "x"), "any text makes a name"


def test_slugs_of_different_long_texts_differ():
    assert slug("x" * 300) != slug("x" * 301)


def test_a_folder_of_ours_is_replaced_whole_and_deleted(tmp_path):
    folder = make(tmp_path / "f", "data/a.txt")
    with new_folder(folder, KIND) as partial:
        (partial / "thing.json").write_text('{"it": 2}')
    assert sorted(everything(tmp_path)) == [str(folder), str(folder / "thing.json")]
    remove_folder(folder, KIND)
    assert everything(tmp_path) == {}


def test_where_the_block_fails_everything_is_as_it_was(tmp_path):
    folder = make(tmp_path / "f", "data/a.txt")
    before = everything(tmp_path)
    with pytest.raises(RuntimeError), new_folder(folder, KIND) as partial:  # noqa: PT012
        (partial / "x").write_text("x")
        raise RuntimeError
    assert everything(tmp_path) == before


FOREIGN = {
    "no marker": lambda f: (f.mkdir(), (f / "mine.txt").write_text("kept")),
    "a marker of another kind": lambda f: (f.mkdir(), (f / "thing.json").write_text('{"else": 1}')),
    "a marker that is no JSON": lambda f: (f.mkdir(), (f / "thing.json").write_text("{")),
    "a file beside ours": lambda f: (make(f), (f / "notes.txt").write_text("kept")),
    "a file deeper in": lambda f: (make(f, "data/a.txt"), (f / "data" / "b.csv").write_text("kept")),
    "an empty folder": lambda f: (make(f), (f / "precious").mkdir()),
    "a link in it": lambda f: (make(f), (f / "data").mkdir(), (f / "data" / "a.txt").symlink_to("/etc/hosts")),
    "a link to a folder in it": lambda f: (make(f), (f / "data").symlink_to(f.parent)),
    "a pipe in it": lambda f: (make(f), (f / "data").mkdir(), os.mkfifo(f / "data" / "a.txt")),
    "a link itself": lambda f: f.symlink_to(make(f.with_name("target"))),
    "a dangling link": lambda f: f.symlink_to(f.with_name("nowhere")),
    "a file": lambda f: f.write_text("kept"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_not_ours_alone_stays(tmp_path, name):
    folder = tmp_path / "f"
    FOREIGN[name](folder)
    before = everything(tmp_path)
    for act in (lambda: remove_folder(folder, KIND), lambda: new_folder(folder, KIND).__enter__()):
        with pytest.raises(UsageError, match=r"name another"):
            act()
        assert everything(tmp_path) == before


def test_a_disk_that_folds_letter_case_does_not_mix_up_two_names(tmp_path, monkeypatch):
    folder = make(tmp_path / "foo")
    listed = os.listdir
    monkeypatch.setattr(files.os, "listdir", lambda p: ["Foo"] if Path(p) == tmp_path else listed(p))
    with pytest.raises(UsageError, match="is 'Foo' on this disk"):
        check_own(folder, KIND)


@pytest.mark.parametrize("inside", [True, False])
def test_a_mounted_disk_is_not_ours(tmp_path, inside):
    """A bind mount, where this process may make one: not even the device's number tells it."""
    folder = make(tmp_path / "f", "data/a.txt")
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("kept")
    at = folder / "data" if inside else folder
    if not inside:
        (other / "thing.json").write_text('{"it": 1}')
        (other / "a.txt").unlink()
    if not shutil.which("mount") or subprocess.run(["mount", "--bind", other, at], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(UsageError, match="holds data/|is where a disk is mounted"):
            remove_folder(folder, KIND)
    finally:
        subprocess.run(["umount", at], check=True)
    assert (other / ("a.txt" if inside else "thing.json")).exists()


def test_what_a_killed_process_left_is_put_right(tmp_path):
    folder = make(tmp_path / "f")
    os.rename(folder, tmp_path / ".f.partial-old-99999999")  # killed between the two renames
    (tmp_path / ".f.partial-99999999").mkdir()
    (tmp_path / ".fg.partial-99999999").mkdir()
    settle(folder)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".fg.partial-99999999", "f"]
    assert KIND.marks(folder)


# files


def test_a_file_is_whole_or_as_it_was(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    file.chmod(0o640)
    with pytest.raises(RuntimeError), writing(file) as out:  # noqa: PT012
        out.write("half")
        raise RuntimeError
    assert everything(tmp_path) == {str(file): hashlib.sha256(b"before").hexdigest()}
    with writing(file) as out:
        out.write("after")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("after", 0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    with writing(link) as out:
        out.write("through")
    assert link.is_symlink()
    assert file.read_text() == "through"


def test_what_is_read_is_never_written(tmp_path):
    source, folder = tmp_path / "q.txt", tmp_path / "f"
    source.write_text("kept")
    folder.mkdir()
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "soft").symlink_to(source)
    for place in (source, tmp_path / "hard", tmp_path / "soft", tmp_path / "f" / ".." / "q.txt", folder / "new"):
        with pytest.raises(UsageError, match="is being read"), writing(place, reads=[source, folder]):
            pass
    assert source.read_text() == "kept"
    for place in (folder, tmp_path / "nowhere" / "x"):
        with pytest.raises(UsageError, match="is a folder|there is no folder"), writing(place):
            pass


def test_a_full_disk_names_the_file_and_keeps_what_was_there(tmp_path):
    if not shutil.which("mount") or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path]).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        file = tmp_path / "a.txt"
        file.write_text("before")
        with pytest.raises(OSError, match=r"No space left on device: '.*/a.txt'"), writing(file) as out:
            out.write("x" * 200_000)
        assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "before"}
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_unfinished_files_of_dead_processes_are_removed(tmp_path):
    (tmp_path / ".a.txt.partial-99999999").write_text("left")
    (tmp_path / f".a.txt.partial-{os.getppid()}").write_text("alive")
    with writing(tmp_path / "a.txt") as out:
        out.write("x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([f".a.txt.partial-{os.getppid()}", "a.txt"])


def _hold(folder: Path, ready, go_on) -> None:
    with locked(folder, lambda process: None):
        ready.set()
        go_on.wait(60)


def test_a_lock_is_told_of_and_dies_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, go_on = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "f", ready, go_on))
    process.start()
    assert ready.wait(60)

    def busy(number: str) -> None:
        raise BusyError(number)

    with pytest.raises(BusyError, match=str(process.pid)), locked(tmp_path / "f", busy):
        pass
    process.kill()
    process.join()
    with locked(tmp_path / "f", busy):
        pass


# as a user meets it


def test_raw_data_where_the_data_set_would_be_stay(terminal):
    """`data/records/` is a natural place for one's own files, and the default place of the data set `records`."""
    raw = terminal.folder / "data" / "records"
    raw.mkdir(parents=True)
    (raw / "train.jsonl").write_text('{"input": "a", "target": "b"}\n' * 20)
    before = everything(terminal.folder)
    said = terminal("preprocess", "data=records", "data.path=data/records")
    assert said.code == 2
    assert "data/records holds other things than a data set of memgpt's (train.jsonl)" in said.err
    assert "data.name=NAME" in said.err
    assert everything(terminal.folder) == before


def test_a_foreign_folder_is_neither_deleted_nor_trained_into(terminal, facts_data, monkeypatch):
    shutil.copytree(facts_data[0], terminal.folder / "data" / "facts")
    precious = terminal.folder / "runs" / "precious"
    precious.mkdir(parents=True)
    (precious / "thesis.txt").write_text("kept")
    before = everything(precious)
    for fresh in ([], ["--fresh"]):
        said = terminal("train", "data=facts", "debug=fast", "run=precious", *_facts_options(facts_data[1]), *fresh)
        assert said.code == 2, said.err
        assert "runs/precious holds other things than a run of memgpt's (thesis.txt)" in said.err
        assert everything(precious) == before


def _facts_options(config: DataConfig) -> list[str]:
    options = ",".join(f"{k}:{v}" for k, v in config.options.items())
    return [f"data.options={{{options}}}", "data.tokenizer.vocab_size=320"]


def test_a_memory_kept_in_a_run_outlives_fresh(terminal, small_run):
    run = terminal.folder / "runs" / "small"
    shutil.copytree(small_run, run)
    (run / "memory.sqlite").write_text("years of talk")
    from memgpt_cli.checkpoint.runs import RUN

    with pytest.raises(UsageError, match=r"holds memory.sqlite, which memgpt did not write"):
        remove_folder(run, RUN)
    (run / "memory.sqlite").unlink()
    remove_folder(run, RUN)
    assert not run.exists()


def test_generate_never_empties_its_input_or_an_older_output(terminal, small_run):
    shutil.copytree(small_run, terminal.folder / "runs" / "small")
    questions = terminal.folder / "q.txt"
    questions.write_text("city of bafa ?\n")
    for output in ("q.txt", "./q.txt", "runs/small/model/model.safetensors"):
        said = terminal("generate", "-i", "q.txt", "-o", output)
        assert said.code == 2
        assert "is being read" in said.err
        assert questions.read_text() == "city of bafa ?\n"
    (terminal.folder / "out.txt").write_text("older answers\n")
    questions.write_text('one\n{"no": 1}\n')
    said = terminal("generate", "-i", "q.txt", "-o", "out.txt")
    assert said.code == 2
    assert "q.txt:2: line 2 begins with {" in said.err
    assert (terminal.folder / "out.txt").read_text() == "older answers\n"
    assert [p.name for p in terminal.folder.iterdir() if "partial" in p.name] == []


EVIL = ["..", ".", "", "../precious", "precious/x", "${oc.env:HOME}", "${oc.env:HOME}/x", "${data.path}", "/", "~", ".hidden", "a/../../precious", "$HOME", "..\\x", "\x1b[2J"]  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("setting", ["data.name", "run"])
def test_no_name_leads_out(terminal, monkeypatch, name, setting):
    """Everything a name could reach here lies in the test's own folder: HOME and the root's place are given as such."""
    if name == "/":
        name = str(terminal.folder / "precious")
    for place in ("precious", "home-of-anna", "work/data/old", "work/runs/old"):
        (terminal.folder / place).mkdir(parents=True)
        (terminal.folder / place / "thesis.txt").write_text("kept")
    monkeypatch.setenv("HOME", str(terminal.folder / "home-of-anna"))
    monkeypatch.chdir(terminal.folder / "work")
    (terminal.folder / "work" / "raw.jsonl").write_text('{"input": "a", "target": "b"}\n' * 20)
    before = everything(terminal.folder)
    given = [
        "data=records",
        f"data.path={terminal.folder / 'work'}",
        "data.files.train=raw.jsonl",
        "data.tokenizer.vocab_size=300",
    ]
    quoted = name if name.startswith("${") else json.dumps(name)
    words = ["preprocess", *given] if setting == "data.name" else ["train", *given, "debug=fast", "--fresh"]
    if setting == "run" and not name:
        return  # an empty name is made from the data's
    said = terminal(*words, f"{setting}={quoted}")
    assert said.code == 2, said
    assert "Traceback" not in said.err
    after = everything(terminal.folder)
    roots = (str(terminal.folder / "work" / "data"), str(terminal.folder / "work" / "runs"))
    assert {k: v for k, v in after.items() if k in before or not k.startswith(roots)} == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.sampled_from("ab.-_/ \\~${}:é文\0\x1b*'\""), max_size=12))
def test_whatever_the_name_only_its_own_folder_changes(tmp_path_factory, name):
    place = tmp_path_factory.mktemp("place") / "deep" / "work"
    (place / "raw").mkdir(parents=True)
    (place / "raw" / "train.jsonl").write_text('{"input": "a b c", "target": "b"}\n' * 12)
    (place / "ab").mkdir()
    before = everything(place.parent.parent)
    try:
        config = DataConfig(name=name, source="records", path=str(place / "raw"), files={"train": "train.jsonl"})
        result = preprocess(config, place / "data")
    except UsageError:
        assert everything(place.parent.parent) == before
        return
    assert result.folder == place / "data" / name
    assert DATA_SET.marks(result.folder)
    mine = (str(place / "data"), str(place / "data" / name), str(place / "data" / f".{name}.lock"))
    after = everything(place.parent.parent)
    assert {k: v for k, v in after.items() if k not in mine and not k.startswith(mine[1] + "/")} == before
