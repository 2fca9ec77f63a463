"""The memory estimate against what tensors, optimisers and processes really hold."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from memgpt_cli.cli import app, load_commands
from memgpt_cli.config import Config, OptimConfig, compose
from memgpt_cli.errors import UsageError
from memgpt_cli.training.footprint import LivePeak, estimate, model_shape, optimizer_bytes, sample_batches
from memgpt_cli.training.measured import measure
from memgpt_cli.training.trainable import make_optimizer

from conftest import tiny_model  # isort: skip


def settings(*overrides: str) -> Config:
    return compose(["data=dialogsum", "model=t5_tiny", "trainer.batch_tokens=4000", *overrides])


def test_live_bytes_are_counted_and_forgotten():
    with LivePeak() as tracker:
        a = torch.zeros(1000)  # 4,000 bytes
        b = a[:500]  # a view takes nothing
        c = a + 1
        assert tracker.now == 8000
        del c
        assert tracker.now == 4000
        d = a * 2 * 3  # a product that dies at once
        assert (tracker.now, tracker.peak) == (8000, 12000)
        del a, b, d
        assert tracker.now == 0


@pytest.mark.parametrize("name", ["adamw", "muon", "adafactor"])
def test_optimizer_states_are_what_the_optimizer_keeps(name):
    model = tiny_model(320)
    optimizer = make_optimizer(model, OptimConfig(optimizer=name))
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = sum(v.nbytes for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v) and v.numel() > 1)
    assert abs(optimizer_bytes(name, model) / kept - 1) < 0.01


def test_parts_are_those_of_the_model(tmp_path):
    found = estimate(settings(), tmp_path)
    with torch.device("meta"):
        from memgpt_cli.model import MemoryTransformer

        size = sum(p.nbytes for p in MemoryTransformer(model_shape(settings(), 0)).parameters())
    assert (found.parameters, found.gradients, found.optimizer, found.average) == (size, size, 2 * size, size)
    assert found.total == found.parameters + found.average + found.gradients + found.optimizer + found.activations
    assert not found.from_data


def test_what_saves_memory_is_seen_to_save_it(tmp_path):
    plain = estimate(settings(), tmp_path)
    assert estimate(settings("trainer.gradient_checkpointing=true"), tmp_path).activations < 0.8 * plain.activations
    assert estimate(settings("trainer.precision=bf16-mixed"), tmp_path).activations < 0.95 * plain.activations
    assert estimate(settings("optim.optimizer=adafactor"), tmp_path).optimizer < 0.1 * plain.optimizer
    assert estimate(settings("trainer.batch_tokens=8000"), tmp_path).activations > 1.7 * plain.activations
    frozen = estimate(settings("optim.trainable=memory"), tmp_path)
    assert frozen.gradients < plain.gradients / 2
    assert plain.largest_batch(2 * plain.total) > 4000 > plain.largest_batch(plain.total * 9 // 10)


def test_lora_keeps_few_gradients(tmp_path):
    pytest.importorskip("peft", reason="memgpt-cli[peft] is not installed")
    found = estimate(settings("optim.trainable=lora", "optim.lora_rank=2"), tmp_path)
    assert found.gradients < estimate(settings(), tmp_path).gradients / 2


def test_the_datas_own_batches_are_counted_where_they_are(facts_data, tmp_path):
    folder, data = facts_data
    config = replace(settings("model=tiny"), data=data)
    batches, pieces = sample_batches(config, folder.parent)
    assert pieces == 320
    assert all(batch.examples for batch in batches)
    assert estimate(config, folder.parent).from_data


def test_the_experiments_fit_their_cards(tmp_path):
    """Flan-T5-base on 24 GB, on one GPU and on each of four; no file of the model is needed to say so."""
    for experiment in ("flan_t5_dialogsum", "flan_t5_dialogsum_gpu4"):
        found = estimate(compose([f"experiment={experiment}"]), tmp_path)
        assert 247e6 * 4 < found.parameters < 252e6 * 4
        assert 10 * 2**30 < found.total < 0.9 * 24 * 2**30


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("trainer.gradient_checkpointing=true", "model.n_encoder_layers=6"),
        ("trainer.precision=bf16-mixed", "model.d_model=512", "model.d_ff=1024"),
        ("model.d_model=512", "model.d_ff=1024", "optim.trainable=memory"),
        ("model.d_model=512", "optim.optimizer=adafactor", "optim.average=0"),
    ],
)
def test_real_steps_take_what_was_estimated(tmp_path, overrides):
    config = settings("trainer.batch_tokens=8000", *overrides)
    assert abs(estimate(config, tmp_path).total / measure(config, tmp_path) - 1) < 0.2


@pytest.mark.gpu
def test_real_steps_on_a_gpu_take_what_was_estimated(tmp_path):
    config = settings("trainer=gpu1", "trainer.batch_tokens=16000", "model.d_model=512", "model.d_ff=1024")
    assert abs(estimate(config, tmp_path).total / measure(config, tmp_path) - 1) < 0.2


def test_the_command_prints_a_table_or_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_commands()
    asked = ["doctor", "--fit", "data=dialogsum", "model=t5_tiny", "trainer.batch_tokens=4000"]
    told = CliRunner().invoke(app, asked)
    assert told.exit_code == 0, told.output
    for line in (
        "memory of one process, batches of 4,000 tokens",
        "activations",
        "largest trainer.batch_tokens",
        "filled to data.limits",
    ):
        assert line in told.stdout
    found = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert found["total"] == estimate(settings(), tmp_path).total
    assert isinstance(CliRunner().invoke(app, ["doctor", "--measure"]).exception, UsageError)


def test_measuring_says_what_went_wrong(tmp_path, monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(UsageError, match="from CUDA or from Linux"):
        measure(settings(), tmp_path)
