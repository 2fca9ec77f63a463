"""Training: losses as defined, an exact resume after kill -9, a gentle Ctrl-C, and two processes that equal one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, make_episode, tiny_model
from rich.console import Console
from safetensors.torch import load_file, save_file

from memgpt_cli.checkpoint import load_model, load_tree, save_model, save_tree
from memgpt_cli.config import Config
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import encode
from memgpt_cli.errors import CheckpointError, UsageError
from memgpt_cli.training.batches import EpisodeData
from memgpt_cli.training.callbacks import checkpoint_folders, read_history
from memgpt_cli.training.fit import make_model, train
from memgpt_cli.training.losses import entry_mass, training_sums
from memgpt_cli.training.module import learning_rate
from memgpt_cli.training.muon import orthogonal
from memgpt_cli.training.trainable import make_optimizer

OVERRIDES = [
    "data=facts", "data.options={facts:12,facts_min:6,facts_test:12,questions:4,episodes_train:24,episodes_valid:4,episodes_test:4}",
    "data.tokenizer.vocab_size=320", *(f"model.{k}={v}" for k, v in TINY.items()), "trainer.batch_tokens=600", "trainer.val_every=10",
    "trainer.val_batches=2", "trainer.checkpoint_every=5", "trainer.log_every=1", "trainer.threads=1", "run=t",
]  # fmt: skip


def memgpt(folder: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "memgpt_cli", *args]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "MEMGPT_HOME": str(folder / "home")}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def losses(run: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_history(run) if "loss" in r}


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"ended early: {process.stdout.read() if process.stdout else ''}")
        if (run / "history.jsonl").is_file() and max(losses(run), default=0) >= step:
            return
        time.sleep(0.02)
    raise AssertionError("training did not get there")


@pytest.mark.slow
def test_a_killed_run_resumes_bit_identically(tmp_path):
    steps = "trainer.max_steps=40"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    first = memgpt(whole, "train", *OVERRIDES, steps)
    out, _ = first.communicate(timeout=180)
    assert first.returncode == 0, out
    second = memgpt(killed, "train", *OVERRIDES, steps)
    wait_for_step(killed / "runs/t", 12, second)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert 0 < max(losses(killed / "runs/t")) < 40
    third = memgpt(killed, "train", *OVERRIDES, steps)
    out, _ = third.communicate(timeout=180)
    assert third.returncode == 0, out
    assert "resumed at step" in out
    assert losses(killed / "runs/t") == losses(whole / "runs/t")
    assert len(losses(whole / "runs/t")) == 40
    weights = [(f / "runs/t/model/model.safetensors").read_bytes() for f in (whole, killed)]
    assert weights[0] == weights[1]


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    process = memgpt(tmp_path, "train", *OVERRIDES, "trainer.max_steps=100000", "trainer.checkpoint_every=100000")
    wait_for_step(tmp_path / "runs/t", 5, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command goes on from there" in out
    (saved,) = checkpoint_folders(tmp_path / "runs/t")
    assert load_tree(saved)["global_step"] == max(losses(tmp_path / "runs/t"))


def test_a_trained_run_is_whole(tiny_config, facts_data, tmp_path):
    run = tmp_path / "run"
    scores = train(tiny_config, facts_data[0], run, Console(quiet=True))
    assert set(scores) >= {"val/loss", "val/exact"}
    assert (run / "learning_curve.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(run.rglob("*.ckpt")) + list(run.rglob("*.pt")), "nothing that would have to be unpickled"
    model, tokenizer, config = load_model(run / "model")
    assert config.data.name == "facts"
    assert model.config.vocab_size == len(tokenizer)
    assert [p.name for p in checkpoint_folders(run)] == ["step-00000006", "step-00000004"]
    state = load_tree(checkpoint_folders(run)[0])["state_dict"]
    kept = model.embedding.weight
    assert torch.equal(kept, state["average.embedding.weight"]), "what is validated and kept is the average"
    assert not torch.equal(kept, state["model.embedding.weight"])


def test_training_learns_by_heart(tiny_config, facts_data, tmp_path):
    config = replace(tiny_config, trainer=replace(tiny_config.trainer, max_steps=60, val_every=60, log_every=1))
    train(config, facts_data[0], tmp_path / "run", Console(quiet=True))
    found = losses(tmp_path / "run")
    assert found[60] < 0.7 * found[1]


def test_other_settings_are_another_run(tiny_config, facts_data, tmp_path):
    train(tiny_config, facts_data[0], tmp_path / "run", Console(quiet=True))
    other = replace(tiny_config, optim=replace(tiny_config.optim, lr=0.1))
    with pytest.raises(UsageError, match=r"optim.lr 0.002 -> 0.1.*run=NAME.*--fresh"):
        train(other, facts_data[0], tmp_path / "run", Console(quiet=True))


def test_other_data_is_another_run(tiny_config, facts_data, tmp_path):
    """Token ids of another tokenizer would mean other words to the same embeddings."""
    import shutil

    train(tiny_config, facts_data[0], tmp_path / "run", Console(quiet=True))
    other = tmp_path / "facts"
    shutil.copytree(facts_data[0], other)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(manifest | {"key": "other"}))
    with pytest.raises(UsageError, match="data_key .* -> other"):
        train(tiny_config, other, tmp_path / "run", Console(quiet=True))


def test_the_last_steps_are_validated_too(tiny_config, facts_data, tmp_path):
    config = replace(tiny_config, trainer=replace(tiny_config.trainer, max_steps=5, val_every=3))
    train(config, facts_data[0], tmp_path / "run", Console(quiet=True))
    assert [r["step"] for r in read_history(tmp_path / "run") if "val/loss" in r] == [3, 5]


def test_gpus_that_are_not_there_are_named(tiny_config, facts_data, tmp_path):
    found = torch.cuda.device_count()
    if found >= 4:
        pytest.skip("this machine has four GPUs")
    config = replace(tiny_config, trainer=replace(tiny_config.trainer, accelerator="gpu", devices=4))
    with pytest.raises(UsageError, match=rf"4 GPUs, found {found}.*type trainer="):
        train(config, facts_data[0], tmp_path / "run", Console(quiet=True))


def test_checkpoints_keep_every_value(tmp_path):
    tree = {
        "a": [1, 2.5, None, "x", True],
        "t": (torch.arange(3), {"deep": torch.ones(2, 2)}),
        "ints": {0: "zero", 7: torch.zeros(1)},
    }
    save_tree(tmp_path / "c", tree)
    back = load_tree(tmp_path / "c")
    assert back["a"] == tree["a"]
    assert isinstance(back["t"], tuple)
    assert torch.equal(back["t"][0], tree["t"][0])
    assert torch.equal(back["ints"][7], tree["ints"][7])
    (tmp_path / "c" / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_tree(tmp_path / "c")


def test_losses_are_what_they_say(tokenizer):
    model = tiny_model(len(tokenizer))
    episode = make_episode(2, entries=5, examples=3)
    batch = collate([encode(episode, tokenizer)])
    context = model.read(batch)
    scored = model.target_logprobs(batch, context, smoothing=True)
    sums = training_sums(batch, context, scored, smoothing=0.0)
    assert sums.task.item() == pytest.approx(-(scored.logp * scored.real).sum().item())
    mass = entry_mass(scored, context, 3, 5)
    owner, read = context.memory_entry[0], context.memory_tokens[0] != 0
    for e in range(3):
        mine = (scored.example[0] == e) & scored.real[0]
        for n in range(5):
            here = read & (owner == n)
            assert mass[0, e, n].item() == pytest.approx(scored.memory_attention[0][mine][:, here].sum().item(), abs=1e-6)
    smoothed = training_sums(batch, context, scored, smoothing=0.5)
    assert smoothed.task.item() == pytest.approx((0.5 * (-scored.logp + scored.smooth) * scored.real).sum().item(), rel=1e-5)


def test_learning_rate_rises_then_falls(tiny_config):
    config = replace(
        tiny_config,
        trainer=replace(tiny_config.trainer, max_steps=100),
        optim=replace(tiny_config.optim, warmup_steps=10, final_lr=0.1),
    )
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[9] == 1.0 == max(rates)
    assert rates[0] == 0.1
    assert rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


@pytest.mark.parametrize(
    ("schedule", "step", "share"),
    [("constant", 10, 1.0), ("constant", 99, 1.0), ("rsqrt", 9, 1.0), ("rsqrt", 39, 0.5), ("rsqrt", 89, 1 / 3)],
)
def test_other_schedules(tiny_config, schedule, step, share):
    optim = replace(tiny_config.optim, warmup_steps=10, schedule=schedule)
    config = replace(tiny_config, trainer=replace(tiny_config.trainer, max_steps=100), optim=optim)
    assert learning_rate(step, config) == pytest.approx(share)


def test_patience_stops_where_nothing_gets_better(tiny_config, facts_data, tmp_path):
    """With a learning rate of nothing no validation is better than the first: two more, and it is over."""
    optim = replace(tiny_config.optim, lr=0.0, average=0.0)
    config = replace(tiny_config, optim=optim, trainer=replace(tiny_config.trainer, max_steps=60, val_every=3, patience=2))
    train(config, facts_data[0], tmp_path / "run", Console(quiet=True))
    assert [r["step"] for r in read_history(tmp_path / "run") if "val/loss" in r] == [3, 6, 9]


def test_minutes_stop_a_training_and_what_it_has_learned_is_kept(tiny_config, facts_data, tmp_path):
    trainer = replace(tiny_config.trainer, max_steps=100_000, max_minutes=0.02, val_every=100_000, checkpoint_every=100_000)
    train(replace(tiny_config, trainer=trainer), facts_data[0], tmp_path / "run", Console(quiet=True))
    (saved,) = checkpoint_folders(tmp_path / "run")
    assert 0 < load_tree(saved)["global_step"] < 100_000
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_fresh_begins_anew(tiny_config, facts_data, tmp_path):
    run = tmp_path / "run"
    train(tiny_config, facts_data[0], run, Console(quiet=True))
    first = losses(run)
    other = replace(tiny_config, optim=replace(tiny_config.optim, lr=0.01), trainer=replace(tiny_config.trainer, max_steps=4))
    train(other, facts_data[0], run, Console(quiet=True), fresh=True)
    again = losses(run)
    assert sorted(again) == [1, 2, 3, 4]
    assert again[1] == first[1], "the same weights to begin with"
    assert again[4] != first[4]


@pytest.mark.slow
def test_a_comma_list_trains_one_after_the_other(tmp_path):
    process = memgpt(tmp_path, "train", *OVERRIDES, "trainer.max_steps=2", "trainer.val_every=2", "optim.lr=1e-3,1e-2")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    names = sorted(p.name for p in (tmp_path / "runs").iterdir() if p.is_dir())
    assert names == ["facts-tiny-optim.lr1e-2", "facts-tiny-optim.lr1e-3"] or len(names) == 2, names
    assert "job 2 of 2" in out


GRADIENTS = """
import json, sys
import torch
from pathlib import Path
from memgpt_cli.config import build, Config
from memgpt_cli.training.batches import EpisodeData
from memgpt_cli.training.fit import make_model
from memgpt_cli.training.module import MemoryModule
import lightning.pytorch as L

folder, out, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
config = build(Config, settings)
data = EpisodeData(folder, config)
module = MemoryModule(make_model(config, data.tokenizer), config)

class Record(L.Callback):
    seen = []
    def on_train_batch_start(self, trainer, module, batch, index):
        self.seen.append([int(x) for x in batch.targets.flatten() if x] + [int(batch.sees.clamp(min=0).sum())])
    def on_after_backward(self, trainer, module):
        grads = {n: p.grad.clone() for n, p in module.model.named_parameters() if p.grad is not None}
        torch.save(grads, out / f"rank{trainer.global_rank}.pt")

trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp_find_unused_parameters_true", max_steps=1, logger=False,
    enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    limit_val_batches=0, callbacks=[Record()])
trainer.fit(module, data)
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(tiny_config, facts_data, tmp_path):
    from memgpt_cli.config import to_dict

    config = replace(tiny_config, trainer=replace(tiny_config.trainer, threads=1))
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS)
    command = [sys.executable, str(script), str(facts_data[0]), str(tmp_path), json.dumps(to_dict(config))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    ranks = [torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1)]

    data = EpisodeData(facts_data[0], config)
    stream = data.stream(world=2)
    first = stream.epoch(0)[:2]
    model = make_model(config, data.tokenizer)
    batch = stream.make([*first[0], *first[1]], 0, 0)  # what the two processes had, in one
    context = model.read(batch)
    sums = training_sums(batch, context, model.target_logprobs(batch, context), 0.0)
    sums.loss(sums.counts.clamp(min=1), config.optim).backward()
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        torch.testing.assert_close(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], p.grad, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_a_run_goes_on_at_its_place_with_another_number_of_devices(tiny_config, facts_data):
    """Four steps of two processes are eight batches; one process goes on with the ninth, three with the third of three each."""
    from types import SimpleNamespace

    data = EpisodeData(facts_data[0], tiny_config)
    data.trainer = SimpleNamespace(global_step=4, world_size=2, global_rank=0)
    kept = data.state_dict()
    assert kept == {"step": 4, "batches": 8}
    again = EpisodeData(facts_data[0], tiny_config)
    again.load_state_dict(kept)
    again.trainer = SimpleNamespace(global_step=4, world_size=1, global_rank=0)
    assert again.train_dataloader().dataset.start == 8
    again.trainer = SimpleNamespace(global_step=6, world_size=1, global_rank=0)
    assert again.state_dict() == {"step": 6, "batches": 10}
    again.trainer = SimpleNamespace(global_step=4, world_size=3, global_rank=1)
    assert again.train_dataloader().dataset.start == 2


@pytest.mark.slow
def test_two_processes_go_on_as_one(tmp_path):
    out, _ = memgpt(
        tmp_path, "train", "trainer=ddp_cpu2", *OVERRIDES, "trainer.max_steps=5", "trainer.val_every=5"
    ).communicate(timeout=300)
    assert len(losses(tmp_path / "runs/t")) == 5, out
    process = memgpt(tmp_path, "train", "trainer=cpu", *OVERRIDES, "trainer.max_steps=8", "trainer.val_every=5")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert "resumed at step 5" in out
    assert len(losses(tmp_path / "runs/t")) == 8


@pytest.mark.slow
def test_ddp_cpu2_trains_through_the_command(tmp_path):
    process = memgpt(tmp_path, "train", "trainer=ddp_cpu2", *OVERRIDES, "trainer.max_steps=8", "trainer.val_every=4")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0, out
    assert len(losses(tmp_path / "runs/t")) == 8
    again = memgpt(tmp_path, "train", "trainer=ddp_cpu2", *OVERRIDES, "trainer.max_steps=8", "trainer.val_every=4")
    out, _ = again.communicate(timeout=300)
    assert "trained already" in out


def test_evidence_is_scored_and_fades(tokenizer, tiny_config):
    model = tiny_model(len(tokenizer))
    episode = make_episode(2, entries=5, examples=3)
    examples = tuple(replace(x, sees=3 + n, evidence=(0, 2)[:n]) for n, x in enumerate(episode.examples))
    batch = collate([encode(replace(episode, examples=examples), tokenizer)])
    context = model.read(batch)
    sums = training_sums(batch, context, model.target_logprobs(batch, context), smoothing=0.0)
    scores = context.choice.scores[0].exp()
    named = [(0, model.retriever.none.exp()), *((e, scores[e, n]) for e, x in enumerate(examples) for n in x.evidence)]
    shares = [right / (scores[e, : examples[e].sees].sum() + model.retriever.none.exp()) for e, right in named]
    assert sums.counts[3] == len(named) == 4, "the first example names none, and so rests on none"
    assert sums.evidence.item() == pytest.approx(-sum(share.log().item() for share in shares), rel=1e-5)
    optim = replace(tiny_config.optim, evidence_weight=0.5)
    ones = torch.ones(4)
    assert sums.loss(ones, optim, 0.0) == sums.loss(ones, replace(optim, evidence_weight=0.0))
    half, whole = (sums.loss(ones, optim, left) - sums.loss(ones, optim, 0.0) for left in (0.5, 1.0))
    assert 2 * half.item() == pytest.approx(whole.item(), rel=1e-4)


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8)])
def test_muon_moves_by_the_orthogonal_factor(shape):
    """Newton-Schulz with Muon's coefficients brings singular values to about 1 and leaves the directions alone."""
    torch.manual_seed(1)
    matrices = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3
    assert values.max() < 1.3
    inside = u.transpose(1, 2) @ found @ v.transpose(1, 2)
    off = inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-4


def test_one_optimiser_is_muon_for_matrices_and_adamw_for_the_rest(tokenizer, tiny_config):
    """What is not Muon's moves exactly as AdamW moves it."""
    optim = replace(tiny_config.optim, optimizer="muon", lr=1e-2)
    mine, theirs = tiny_model(len(tokenizer)), tiny_model(len(tokenizer))
    for model, config in ((mine, optim), (theirs, replace(optim, optimizer="adamw"))):
        optimizer = make_optimizer(model, config)
        for _ in range(3):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(1)
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
    moved, same = [], []
    for (name, a), (_, b) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        (same if torch.equal(a, b) else moved).append(name)
    assert "embedding.weight" in same
    assert "encoder.layers.0.attention.q.weight" in moved
    assert all(name.endswith(".weight") and "norm" not in name and "embedding" not in name for name in moved)


def test_muon_goes_on_where_it_was(tiny_config, facts_data, tmp_path):
    optim = replace(tiny_config.optim, optimizer="muon", schedule="constant", warmup_steps=1)
    weights = {}
    for name, parts in (("whole", (6,)), ("halves", (2, 6))):
        for steps in parts:
            config = replace(tiny_config, optim=optim, trainer=replace(tiny_config.trainer, max_steps=steps, val_every=2))
            train(config, facts_data[0], tmp_path / name, Console(quiet=True))
        newest = checkpoint_folders(tmp_path / name)[0]
        weights[name] = load_tree(newest)["state_dict"]
    assert weights["whole"].keys() == weights["halves"].keys()
    assert all(torch.equal(weights["whole"][key], weights["halves"][key]) for key in weights["whole"])


def test_a_run_of_an_older_pointer_is_told_to_be_trained_anew(tokenizer, tmp_path):
    model = tiny_model(len(tokenizer))
    save_model(tmp_path / "model", model.state_dict(), tokenizer, Config(model=model.config), {})
    weights = load_file(tmp_path / "model" / "model.safetensors")
    old = {k: v for k, v in weights.items() if not k.startswith("pointer.follow")}
    old["pointer.gate.weight"] = old["pointer.gate.weight"][:, : model.config.d_model].contiguous()
    save_file(old, tmp_path / "model" / "model.safetensors")
    with pytest.raises(CheckpointError, match="pointer.*trained anew"):
        load_model(tmp_path / "model")
