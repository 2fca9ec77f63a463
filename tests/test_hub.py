"""Downloads and uploads against a hub of our own: caches, offline mode, broken connections, errors in words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub

NAME = "somebody/tiny-flan-t5"


@pytest.fixture
def hub(t5_folder):
    made = FakeHub({NAME: t5_folder})
    yield made
    made.close()


@pytest.fixture
def ask(hub, tmp_path):
    """Runs code in a fresh process that knows this hub alone; the last line it prints, or what went wrong."""

    def run(code: str, **environment: str) -> str:
        settings = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_TOKEN": "hf_secret123",
        }
        full = f"from memgpt_cli import hub\nfrom memgpt_cli.errors import MemgptError\ntry:\n    print({code})\nexcept MemgptError as error:\n    print(error)"
        done = subprocess.run(
            [sys.executable, "-c", full],
            capture_output=True,
            text=True,
            env={**os.environ, **settings, **environment},
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "hf_secret123" not in done.stdout + done.stderr
        return done.stdout.strip().splitlines()[-1]

    return run


def test_a_model_is_downloaded_once_and_then_needs_no_network(hub, ask, t5_folder):
    hub.repositories[NAME] = t5_folder
    folder = ask(f"hub.fetch('{NAME}')")
    assert folder.endswith(f"snapshots/{COMMIT}")
    assert (t5_folder / "model.safetensors").read_bytes() == Path(folder, "model.safetensors").read_bytes()
    asked = len(hub.log)
    assert ask(f"hub.fetch('{NAME}')") == folder
    assert len(hub.log) == asked, "what is in the cache asks nobody"
    assert ask(f"hub.fetch('{NAME}')", HF_HUB_OFFLINE="1") == folder
    shape = ask(f"tuple(__import__('memgpt_cli.checkpoint').checkpoint.load_pretrained('{NAME}').embedding.weight.shape)")
    assert shape == "(304, 24)"


def test_only_the_tokenizer_is_fetched_where_only_it_is_needed(hub, ask):
    folder = ask(f"hub.fetch('{NAME}', weights=False)")
    assert os.path.isfile(f"{folder}/tokenizer.json")
    assert not os.path.exists(f"{folder}/model.safetensors")
    assert ask(f"hub.fetch('{NAME}')") == folder
    assert os.path.isfile(f"{folder}/model.safetensors")


@pytest.mark.slow
def test_a_broken_download_goes_on_where_it_broke(hub, ask, t5_folder):
    """By whole chunks, which huggingface_hub makes 10 MB long: shorter here, as the model is."""
    hub.breaks_after["model.safetensors"] = 5000
    smaller = "setattr(__import__('huggingface_hub.constants').constants, 'DOWNLOAD_CHUNK_SIZE', 1000)"
    folder = ask(f"({smaller}, hub.fetch('{NAME}'))[1]")
    assert (t5_folder / "model.safetensors").read_bytes() == Path(folder, "model.safetensors").read_bytes()
    assert [r for _, path, r in hub.log if path.endswith("/model.safetensors") and r] == ["bytes=5000-"]


def test_old_weights_are_fetched_where_there_are_no_others(hub, ask, t5_folder, tmp_path):
    import shutil

    import torch
    from safetensors.torch import load_file

    old = tmp_path / "old"
    shutil.copytree(t5_folder, old)
    torch.save(load_file(old / "model.safetensors"), old / "pytorch_model.bin")
    (old / "model.safetensors").unlink()
    hub.repositories["somebody/old"] = old
    assert os.path.isfile(ask("hub.fetch('somebody/old')") + "/pytorch_model.bin")


def test_only_one_format_is_fetched_and_lost_shards_are_fetched_again(hub, ask, t5_folder, tmp_path):
    import shutil

    import torch
    import transformers
    from safetensors.torch import load_file

    both, sharded = tmp_path / "both", tmp_path / "sharded"
    shutil.copytree(t5_folder, both)
    torch.save(load_file(both / "model.safetensors"), both / "pytorch_model.bin")
    transformers.T5ForConditionalGeneration.from_pretrained(t5_folder).save_pretrained(sharded, max_shard_size="20KB")
    hub.repositories |= {"somebody/both": both, "somebody/sharded": sharded}
    ask("hub.fetch('somebody/both', weights=False)")
    folder = Path(ask("hub.fetch('somebody/both')"))
    assert (folder / "model.safetensors").is_file()
    assert not (folder / "pytorch_model.bin").exists()
    folder = Path(ask("hub.fetch('somebody/sharded')"))
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].unlink()
    assert ask("hub.fetch('somebody/sharded')") == str(folder)
    assert sorted(folder.glob("model-*.safetensors")) == shards


def test_what_goes_wrong_is_said_in_words(hub, ask, tmp_path):
    hub.gated.add("somebody/gated")
    assert "is gated: accept its conditions at https://huggingface.co/somebody/gated" in ask("hub.fetch('somebody/gated')")
    assert "no repository of this name on the hub" in ask("hub.fetch('somebody/nothing')")
    assert "has no revision 'v9'" in ask(f"hub.fetch('{NAME}', 'v9')")
    assert "HF_HUB_OFFLINE forbids to download it" in ask("hub.fetch('somebody/else')", HF_HUB_OFFLINE="1")
    assert "the hub cannot be reached" in ask("hub.fetch('somebody/else')", HF_ENDPOINT="http://127.0.0.1:9")
    assert "there is no folder './nowhere/at/all'" in ask("hub.fetch('./nowhere/at/all')")


def test_a_folder_is_pushed_whole(hub, ask, t5_folder):
    assert ask(f"hub.push(__import__('pathlib').Path('{t5_folder}'), 'me/model')") == f"{hub.url}/me/model"
    assert {k.removeprefix("me/model/"): v for k, v in hub.uploaded.items()} == {
        p.name: p.read_bytes() for p in t5_folder.iterdir()
    }
    hub.refuse_writes = True
    assert "the hub does not let you write to me/model (403): set HF_TOKEN" in ask(
        f"hub.push(__import__('pathlib').Path('{t5_folder}'), 'me/model')"
    )
    assert "HF_HUB_OFFLINE forbids" in ask(
        f"hub.push(__import__('pathlib').Path('{t5_folder}'), 'me/model')", HF_HUB_OFFLINE="1"
    )
