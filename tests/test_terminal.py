"""At a real terminal: prompts, replies as they are said, bars, and the question before something is forgotten."""

import os
import shutil
import sys

import pytest

pexpect = pytest.importorskip("pexpect")


@pytest.fixture
def memgpt(small_run, tmp_path):
    """Starts a command on a pseudo-terminal, in a folder with the small run."""
    shutil.copytree(small_run, tmp_path / "runs" / "small")
    environment = {**os.environ, "MEMGPT_HOME": str(tmp_path / "home"), "TERM": "xterm", "COLUMNS": "120", "LINES": "40"}
    started = []

    def start(*words):
        command = ["-m", "memgpt_cli", *words]
        child = pexpect.spawn(sys.executable, command, cwd=str(tmp_path), env=environment, encoding="utf-8", timeout=90)
        child.setwinsize(40, 120)
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def test_a_conversation_at_a_terminal(memgpt):
    chat = memgpt("chat", "--namespace", "n", "generate.max_tokens=4")
    chat.expect("you> ")
    chat.sendline("hello there")
    chat.expect("bot>")
    chat.expect("you> ")
    chat.sendline("one \\")
    chat.expect(r"\.\.\.> ")
    chat.sendline("two")
    chat.expect("bot>")
    chat.expect("you> ")
    chat.sendline("/remember the keys are red")
    chat.expect("remembered as a note: the keys are red")
    chat.expect("you> ")
    chat.sendline("/remember the keys are old")
    chat.expect("you> ")
    chat.sendline("/forget the keys")
    chat.expect(r"forget these 2 entries for good\? \[y/N\] ")
    chat.sendline("n")
    chat.expect("kept")
    chat.expect("you> ")
    chat.sendline("/forget the keys")
    chat.expect(r"\[y/N\] ")
    chat.sendline("y")
    chat.expect("forgot 2 entries.*their bytes are erased")
    chat.expect("you> ")
    chat.sendintr()
    chat.expect("type /quit to leave")
    chat.sendline("/quit")
    chat.expect(pexpect.EOF)
    chat.close()
    assert chat.exitstatus == 0


def test_forgetting_asks_first(memgpt):
    assert memgpt("memory", "add", "the keys are red", "--namespace", "n").expect("remembered 1") == 0
    refused = memgpt("memory", "forget", "--all", "--namespace", "n")
    refused.expect("the keys are red")
    refused.expect(r"Forget these 1 entries of 'n' for good\? \[y/N\]")
    refused.sendline("n")
    refused.expect(pexpect.EOF)
    refused.close()
    assert refused.exitstatus == 1
    done = memgpt("memory", "forget", "--all", "--namespace", "n")
    done.expect(r"\[y/N\]")
    done.sendline("y")
    done.expect("forgot 1 entries of 'n'; no byte of it is left in the store")


def test_runs_are_deleted_after_a_question(memgpt, tmp_path):
    asked = memgpt("runs", "rm", "small")
    asked.expect(r"Delete runs/small for good\? \[y/N\]")
    asked.sendline("n")
    asked.expect(pexpect.EOF)
    assert (tmp_path / "runs/small").is_dir()
