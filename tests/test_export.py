"""Exports are the run they came from: in transformers, CTranslate2 and onnxruntime, and they say what they cannot hold."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="memgpt-cli[export] is not installed")

from typer.testing import CliRunner

from memgpt_cli.checkpoint import load_model, load_pretrained, save_model
from memgpt_cli.cli import app, load_commands
from memgpt_cli.config import Config, DataConfig, TokenizerConfig, compose
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import encode
from memgpt_cli.errors import CheckpointError, UsageError
from memgpt_cli.export import export_run
from memgpt_cli.export.source import compare
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import ReadConfig
from memgpt_cli.tokenizer import load_tokenizer, same_words

from conftest import make_episode, tiny_model  # isort: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Exports are compared on the run's own data where `data/` holds it: never on what lies in this checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def runs(t5_folder, tokenizer, tmp_path_factory):
    """Two runs: one fine-tuned from a pretrained model, one of T5's architecture from scratch, memory trained in both."""
    root = tmp_path_factory.mktemp("runs")
    tuned = load_pretrained(t5_folder)
    scratch_config = replace(compose(["model=t5_tiny", "model.d_model=32"]).model, vocab_size=len(tokenizer))
    torch.manual_seed(1)
    scratch = MemoryTransformer(scratch_config)
    words = load_pretrained(t5_folder, replace(tuned.config, memory=replace(tuned.config.memory, words=True)))
    words.retriever.words.spell(same_words(load_tokenizer(t5_folder)))
    of_t5 = load_tokenizer(t5_folder)
    for name, model, own in (("tuned", tuned, of_t5), ("scratch", scratch, tokenizer), ("words", words, of_t5)):
        torch.manual_seed(2)
        with torch.no_grad():
            for parameter, weight in model.named_parameters():
                if parameter in model.memory_parameters():
                    weight.normal_(0, 0.5)
        notes = {"step": 7, "val/loss": 1.25, "data": "/nowhere"}
        data = DataConfig(path=str(root / "private"), tokenizer=TokenizerConfig(path=str(t5_folder)))
        save_model(_made(root / name) / "model", model.state_dict(), own, Config(data=data, model=model.config), notes)
    (root / "tuned" / "eval").mkdir()
    score = {
        "name": "rouge1",
        "value": 40.5,
        "signature": "rouge_score:0.1.2|f1",
        "low": 39.0,
        "high": 42.0,
        "n": 100,
        "more": {},
    }
    (root / "tuned" / "eval" / "test-scores.json").write_text(
        json.dumps({"learned": [score], "empty": [score | {"value": 30.25}]})
    )
    return root


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", ["tuned", "scratch", "words"])
def test_transformers_reads_an_export_and_memory_survives_it(runs, tmp_path, name):
    made = export_run(name, runs, tmp_path / "out", "hf", license="mit")
    assert "the same ids" in made.checks[0]
    assert any("greedy outputs" in check and "equal" in check for check in made.checks)
    model, _, _ = load_model(runs / name / "model")
    again = load_pretrained(tmp_path / "out")
    kept = [(m.max_time, m.age_buckets, m.gate) for m in (again.config.memory, model.config.memory)]
    assert kept[0] == kept[1]
    assert all(torch.equal(again.state_dict()[k], v) for k, v in model.state_dict().items())
    if name != "scratch":  # and with entries to read it says the same
        batch = collate([encode(make_episode(3), load_tokenizer(tmp_path / "out"))])
        one, other = (m.vocab_logits(m.decode_targets(batch, m.read(batch)).hidden) for m in (model, again))
        assert torch.equal(one, other)


def test_the_card_tells_where_it_came_from_and_how_good_it_is(runs, tmp_path):
    export_run("tuned", runs, tmp_path / "out", "hf", license="apache-2.0")
    card = (tmp_path / "out" / "README.md").read_text()
    for told in (
        "license: apache-2.0",
        "from `tiny-flan-t5`",
        "7 steps",
        "1.2500 nats",
        "| rouge1 | 40.50 [39.00, 42.00] (n=100) | 30.25",
    ):
        assert told in card, told
    assert "`rouge_score:0.1.2|f1`" in card
    assert str(runs) not in card
    assert "/tmp" not in card.split("## Data")[0]


@pytest.mark.parametrize("name", ["tuned", "scratch"])
def test_ctranslate2_says_what_the_run_says(runs, tmp_path, name):
    pytest.importorskip("ctranslate2", reason="memgpt-cli[export] is not installed")
    made = export_run(name, runs, tmp_path / "out", "ctranslate2")
    assert "log-probabilities of target tokens: differ by at most" in made.checks[0]
    assert "greedy outputs of 24 tokens: 8 of 8 equal" in made.checks[1]
    assert "outputs of 4 beams" in made.checks[2]
    assert (tmp_path / "out" / "model.bin").is_file()
    assert "no memory" in made.notes[0]


@pytest.mark.slow
def test_onnx_holds_the_encoder_the_decoder_and_memory(runs, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="memgpt-cli[export] is not installed")
    pytest.importorskip("onnxscript", reason="memgpt-cli[export] is not installed")
    made = export_run("tuned", runs, tmp_path / "out", "onnx")
    assert len(made.checks) == 5
    # an episode read by the graphs alone, against read() and decode()
    model, tokenizer, _ = load_model(runs / "tuned" / "model")
    batch = collate([encode(make_episode(1, entries=4, examples=3), tokenizer)])
    context = model.read(batch)
    decoded = model.decode_targets(batch, context)
    expected = decoded.packing.unpack(model.vocab_logits(decoded.hidden))[0]
    states = model.encode_texts(batch.texts).states
    memory = states[batch.memory_index]
    kind = batch.entry_kind.gather(1, batch.memory_entry).clamp(min=0)
    tables = model.kind(kind) + model.retriever.timed[kind][..., None] * model.time(batch.memory_entry)
    memory = memory + (batch.memory_tokens != 0)[..., None] * tables
    session = runtime.InferenceSession(str(tmp_path / "out" / "decoder.onnx"), providers=["CPUExecutionProvider"])
    encoder = runtime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for example in range(3):
        ids = batch.input_tokens[0, example][None]
        fed = {
            "said": torch.nn.functional.pad(batch.targets[0, example], (1, -1))[None],
            "input_states": torch.from_numpy(encoder.run(None, {"input_ids": ids.numpy()})[0]),
            "input_ids": ids,
            "memory_states": memory,
            "memory_bias": context.memory_bias[:, :, example],
        }
        found = torch.from_numpy(session.run(None, {k: v.detach().numpy() for k, v in fed.items()})[0])[0]
        compare("logits", expected[example].detach(), found, batch.targets[0, example] != 0)


def test_a_safetensors_export_is_a_run_of_its_own(runs, tmp_path):
    export_run("scratch", runs, tmp_path / "out", "safetensors")
    shutil.move(tmp_path / "out", tmp_path / "other")
    model, _, _ = load_model(tmp_path / "other" / "model")
    assert all(torch.equal(v, load_model(runs / "scratch" / "model")[0].state_dict()[k]) for k, v in model.state_dict().items())
    told = (tmp_path / "other" / "model" / "config.json").read_text()
    assert not [word for word in re.findall(r'"([^"]*)"', told) if word.startswith(("/", "~", ".")) or str(runs.parent) in word]
    assert "memgpt chat --run" in (tmp_path / "other" / "README.md").read_text()


def test_umt5_without_scaled_logits_is_exported_all_the_same(tokenizer, tmp_path):
    shape = replace(compose(["model=t5_tiny"]).model, vocab_size=len(tokenizer), position="relative_per_layer", d_model=32)
    torch.manual_seed(3)
    save_model(_made(tmp_path / "own") / "model", MemoryTransformer(shape).state_dict(), tokenizer, Config(model=shape), {})
    made = export_run("own", tmp_path, tmp_path / "out", "hf")
    assert "greedy outputs of 24 tokens: 8 of 8 equal" in made.checks[2]


def test_a_model_that_is_no_t5_says_which_settings_differ(tokenizer, tmp_path):
    model = tiny_model(len(tokenizer), memory=ReadConfig(vector=True))
    save_model(_made(tmp_path / "own") / "model", model.state_dict(), tokenizer, Config(model=model.config), {})
    settings = r"model.scale_embeddings=True.*model.copy=True.*model.memory.vector=True.*model.position=rope"
    with pytest.raises(CheckpointError, match="no T5.*" + settings):
        export_run("own", tmp_path, tmp_path / "out", "hf")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match=r"model.copy=false"):
        export_run("own", tmp_path, tmp_path / "out", "onnx")


def test_a_check_that_fails_keeps_nothing(runs, tmp_path, monkeypatch):
    """A weight changed on the way to disk is found out, and what stood there before stays."""
    from memgpt_cli.export import as_hf

    true = as_hf.save_file

    def broken(tensors, path, **settings):
        if Path(path).name == "model.safetensors":
            tensors = {**tensors, "encoder.final_layer_norm.weight": tensors["encoder.final_layer_norm.weight"] * 1.01}
        true(tensors, path, **settings)

    monkeypatch.setattr(as_hf, "save_file", broken)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "memgpt_export.json").write_text(json.dumps({"format": "hf", "run": "x", "memgpt": "0"}))
    with pytest.raises(CheckpointError, match="not the same model: logits differ by"):
        export_run("tuned", runs, tmp_path / "out", "hf", force=True)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "memgpt_export.json"]


def test_only_an_export_is_ever_replaced(runs, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(UsageError, match="holds other things than an export"):
        export_run("tuned", runs, tmp_path, "safetensors", force=True)
    assert (tmp_path / "mine").read_text() == "kept"
    export_run("tuned", runs, tmp_path / "out", "safetensors")
    with pytest.raises(UsageError, match="holds an export already: name another folder, or add --force"):
        export_run("scratch", runs, tmp_path / "out", "safetensors")
    export_run("scratch", runs, tmp_path / "out", "safetensors", force=True)
    assert json.loads((tmp_path / "out" / "memgpt_export.json").read_text())["run"] == "scratch"


def test_unknown_formats_and_missing_libraries_are_one_line(runs, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="gguf is not possible"):
        export_run("tuned", runs, tmp_path / "out", "gguf")
    with pytest.raises(UsageError, match="Did you mean 'onnx'"):
        export_run("tuned", runs, tmp_path / "out", "onx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"pip install 'memgpt-cli\[export\]'"):
        export_run("tuned", runs, tmp_path / "out", "onnx")


def test_the_command_prints_its_checks(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(runs.parent)
    load_commands()
    done = CliRunner().invoke(
        app, ["export", str(runs / "scratch"), str(tmp_path / "out"), "--format", "safetensors", "--json"]
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["format"] == "safetensors"
    assert len(told["checks"]) == 2
