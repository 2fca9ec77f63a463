"""Fine-tuning from pretrained weights: what is trained, what stays, and what the adapters are worth elsewhere."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from test_corpus import write_questions

from memgpt_cli.checkpoint import fingerprint, load_model, load_pretrained
from memgpt_cli.config import Config, compose
from memgpt_cli.data.preprocess import preprocess
from memgpt_cli.errors import ConfigError, UsageError
from memgpt_cli.training.fit import make_model, train
from memgpt_cli.training.trainable import make_optimizer, merged_weights

TRAINER = {
    "max_steps": 4,
    "batch_tokens": 600,
    "val_every": 2,
    "val_batches": 2,
    "checkpoint_every": 2,
    "log_every": 1,
    "threads": 1,
}
DATA = {
    "facts": 12,
    "facts_min": 6,
    "facts_test": 12,
    "questions": 4,
    "episodes_train": 12,
    "episodes_valid": 4,
    "episodes_test": 4,
}


@pytest.fixture(scope="module")
def settings(t5_folder):
    """The configuration of `memgpt train data=facts model.init_from=FOLDER`, small."""
    small = [f"trainer.{k}={v}" for k, v in TRAINER.items()] + [f"data.options.{k}={v}" for k, v in DATA.items()]
    return compose(["data=facts", f"model.init_from={t5_folder}", "optim.lr=1e-2", "optim.warmup_steps=1", *small])


@pytest.fixture(scope="module")
def data(settings, tmp_path_factory):
    return preprocess(settings.data, tmp_path_factory.mktemp("data"))


def fit(settings: Config, data, folder, **optim):
    config = replace(settings, optim=replace(settings.optim, **optim))
    train(config, data.folder, folder, Console(quiet=True))
    return load_model(folder / "model")


def changed(before, after) -> set[str]:
    return {name for name, weight in before.state_dict().items() if not torch.equal(weight, after.state_dict()[name])}


def test_init_from_brings_its_presets_and_its_tokenizer(settings, data, t5_folder):
    assert (settings.preset, settings.model.copy, settings.model.memory.gate) == ("pretrained", False, True)
    assert settings.optim.average == 0.0
    assert settings.data.name == "facts-tiny-flan-t5"
    assert settings.data.tokenizer.path == str(t5_folder)
    changes = data.manifest["statistics"]["train"]["changes"]
    assert data.manifest["tokenizer"]["fingerprint"]
    assert any("the tokenizer does not know" in what for what in changes), changes  # names in letters it never saw
    with pytest.raises(ConfigError, match="model.d_model comes from the checkpoint"):
        compose([f"model.init_from={t5_folder}", "model.d_model=8"])
    assert compose([f"model.init_from={t5_folder}", "optim=adamw"]).optim.lr == 2e-3


def test_data_cut_by_another_tokenizer_is_refused(settings, tokenizer):
    with pytest.raises(UsageError, match="cut by another tokenizer"):
        make_model(settings, tokenizer)


@pytest.mark.parametrize("trainable", ["all", "memory", "decoder", "lora"])
def test_only_what_was_asked_for_is_trained(settings, data, tmp_path, t5_folder, trainable):
    before = make_model(settings, data_tokenizer(data))
    after, tokenizer, config = fit(settings, data, tmp_path / "run", trainable=trainable)
    moved = changed(before, after)
    memory = before.memory_parameters()
    assert moved & memory, "memory is always trained"
    rest = moved - memory
    if trainable == "all":
        assert len(rest) == len(before.state_dict()) - len(memory)
    elif trainable == "memory":
        assert not rest
        inputs, targets = torch.randint(3, 200, (2, 9)), torch.randint(3, 200, (2, 5))
        assert torch.equal(after(inputs, targets), before.eval()(inputs, targets))
    elif trainable == "decoder":
        assert rest
        assert not any(name.startswith(("encoder.", "embedding.")) for name in rest)
        assert "retriever.key.weight" not in moved
        assert "retriever.query.weight" in moved
    else:
        assert {name.rsplit(".", 2)[1] for name in rest} == {"q", "v"}
    assert config.model.vocab_size == len(tokenizer) + 4
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["notes"]["init_from"] == t5_folder.name


def data_tokenizer(data):
    from memgpt_cli.tokenizer import load_tokenizer

    return load_tokenizer(data.folder)


def test_a_frozen_encoder_keeps_the_fingerprint_of_stored_entries(settings, data, tmp_path):
    short = replace(settings, trainer=replace(settings.trainer, max_steps=1))
    marks = {}
    for steps, trainable in ((1, "decoder"), (4, "decoder"), (4, "all")):
        run = tmp_path / f"{trainable}{steps}"
        fit(replace(short, trainer=replace(short.trainer, max_steps=steps)), data, run, trainable=trainable)
        marks[trainable, steps] = fingerprint(run / "model")
    assert marks["decoder", 1] == marks["decoder", 4]
    assert marks["all", 4] != marks["decoder", 4]


def test_adapters_work_in_peft_on_the_plain_model(settings, data, tmp_path, t5_folder):
    peft = pytest.importorskip("peft", reason="memgpt-cli[peft] is not installed")
    import transformers

    ours, _, _ = fit(settings, data, tmp_path / "run", trainable="lora", lora_targets=("q", "v", "o", "gate", "down"))
    base = transformers.T5ForConditionalGeneration.from_pretrained(t5_folder)
    inputs, targets = torch.randint(3, 200, (2, 9)), torch.randint(3, 200, (2, 5))
    plain = base.eval()(input_ids=inputs, labels=targets).logits
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "run" / "adapter").eval()(input_ids=inputs, labels=targets).logits
    assert (adapted - plain).abs().max() > 1e-3
    assert torch.allclose(ours(inputs, targets), adapted, atol=1e-5)


def test_an_interrupted_lora_run_goes_on_where_it_was(settings, data, tmp_path):
    """Four steps are two and, resumed, two more: the same weights."""
    pytest.importorskip("peft", reason="memgpt-cli[peft] is not installed")
    whole, _, _ = fit(settings, data, tmp_path / "whole", trainable="lora")
    import shutil

    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "step-00000004")
    shutil.rmtree(tmp_path / "resumed" / "model")
    resumed, _, _ = fit(settings, data, tmp_path / "resumed", trainable="lora")
    assert not changed(whole, resumed)


def test_memory_has_a_learning_rate_of_its_own(settings, data):
    model = make_model(replace(settings, optim=replace(settings.optim, memory_lr=0.5)), data_tokenizer(data))
    optimizer = make_optimizer(model, replace(settings.optim, memory_lr=0.5))
    by_name = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    rates = {name: by_name[id(p)] for name, p in model.named_parameters()}
    assert {rate for name, rate in rates.items() if name in model.memory_parameters()} == {0.5, 5.0}
    assert all((rate == 5.0) == name.endswith(".read.gate") for name, rate in rates.items()), "gates have far to go"
    assert {rate for name, rate in rates.items() if name not in model.memory_parameters()} == {settings.optim.lr}


def test_adafactor_and_gradient_checkpointing_train(settings, data, tmp_path):
    config = replace(settings, trainer=replace(settings.trainer, gradient_checkpointing=True))
    model, _, _ = fit(config, data, tmp_path / "run", optimizer="adafactor")
    assert changed(make_model(settings, data_tokenizer(data)), model)


def test_what_cannot_be_done_here_says_what_to_type(settings, data, tmp_path, monkeypatch):
    model = make_model(settings, data_tokenizer(data))
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="adamw8bit needs a CUDA GPU"):
            make_optimizer(model, replace(settings.optim, optimizer="adamw8bit"))
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r"pip install 'memgpt-cli\[peft\]'"):
        make_model(replace(settings, optim=replace(settings.optim, trainable="lora")), data_tokenizer(data))
    with pytest.raises(UsageError, match="overflow in trainer.precision=16-mixed"):
        train(replace(settings, trainer=replace(settings.trainer, precision="16-mixed")), data.folder, tmp_path, Console())


def test_a_start_that_fails_leaves_the_run_as_it_was(settings, data, tmp_path):
    fit(settings, data, tmp_path / "run")
    kept = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    bad = replace(settings, data=replace(settings.data, tokenizer=replace(settings.data.tokenizer, add=("x",))))
    bad = replace(bad, optim=replace(bad.optim, trainable="memory"))
    with pytest.raises(UsageError, match="keeps the embedding"):
        train(bad, data.folder, tmp_path / "run", Console(quiet=True), fresh=True)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == kept
    more = replace(settings, trainer=replace(settings.trainer, max_steps=6))  # as a finished run advises
    train(more, data.folder, tmp_path / "run", Console(quiet=True))
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").is_dir()


@pytest.mark.parametrize("experiment", ["facts", "dialogsum", "kdconv", "demo", "flan_t5_dialogsum"])
def test_experiments_for_random_weights_give_way_to_pretrained_ones(experiment, t5_folder):
    config = compose([f"experiment={experiment}", f"model.init_from={t5_folder}"])
    assert (config.optim.lr, config.optim.average, config.model.copy, config.model.memory.gate) == (1e-4, 0.0, False, True)
    assert compose([f"experiment={experiment}", f"model.init_from={t5_folder}", "optim.lr=3e-4"]).optim.lr == 3e-4
    with pytest.raises(ConfigError, match="comes from the checkpoint"):
        compose([f"experiment={experiment}", f"model.init_from={t5_folder}", "model.d_ff=9"])


def test_a_preset_of_ones_own_may_start_from_pretrained_weights(tmp_path):
    for group, name, text in (
        ("model", "mine", 'defaults: [flan_t5_base]\ninit_from: "google/other"\n'),
        ("experiment", "mine", "# @package _global_\ndefaults:\n  - override /model: flan_t5_base\noptim:\n  clip: 0.5\n"),
    ):
        (tmp_path / group).mkdir()
        (tmp_path / group / f"{name}.yaml").write_text(text)
    assert compose(["model=mine"], tmp_path).optim.lr == 1e-4
    mixed = compose(["experiment=mine"], tmp_path)
    assert (mixed.optim.lr, mixed.optim.clip) == (1e-4, 0.5)


def test_pretrained_weights_are_trained_over_a_corpus(t5_folder, tmp_path):
    """`experiment=flan_t5_corpus` from another checkpoint: words are learned beside its vectors."""
    write_questions(tmp_path / "raw")
    small = [f"trainer.{k}={v}" for k, v in (TRAINER | {"accelerator": "cpu", "precision": "32-true"}).items()]
    config = compose(
        [
            "experiment=flan_t5_corpus",
            f"data.path={tmp_path}/raw",
            "data.files={train:train.csv,valid:valid.csv}",
            "data.hold_out.valid=0",
            "data.options={input:question,target:answer,references:answers}",
            f"data.corpus={tmp_path}/raw/facts.tsv",
            f"model.init_from={t5_folder}",  # on top of the experiment it takes the place of its model
            "model.memory.words=true",
            "data.options.separator=|",
            *small,
        ]
    )
    assert (config.model.memory.words, config.model.memory.gate, config.preset) == (True, True, "pretrained")
    made = preprocess(config.data, tmp_path / "data")
    before = load_pretrained(t5_folder)
    train(config, made.folder, tmp_path / "run", Console(quiet=True))
    trained, _, _ = load_model(tmp_path / "run" / "model")
    words = trained.retriever.words
    assert words is not None
    assert words.input.abs().sum() > 0
    assert words.same.unique().numel() < words.same.numel(), "pieces with and without a space before them are one"
    assert not torch.equal(before.embedding.weight, trained.embedding.weight[: len(before.embedding.weight)])


def test_one_folder_is_one_folder_however_it_is_written(t5_folder, monkeypatch):
    monkeypatch.chdir(t5_folder.parent)
    spelled = [compose([f"model.init_from={name}"]) for name in (t5_folder, f"{t5_folder.name}/", t5_folder.name)]
    assert spelled[0] == spelled[1] == spelled[2]


def test_evaluation_needs_only_the_run(settings, data, tmp_path):
    """The data are known as the run's own when the model it started from is gone."""
    from memgpt_cli.data.preprocess import is_current

    fit(settings, data, tmp_path / "run")
    tokenizer = replace(settings.data.tokenizer, path=str(tmp_path / "run" / "model"), add=())
    assert is_current(replace(settings.data, tokenizer=tokenizer), data.folder.parent)


def test_bytes_are_a_vocabulary_too(t5_folder, settings, tmp_path):
    import transformers

    folder = tmp_path / "byt5"
    transformers.ByT5Tokenizer().save_pretrained(folder)
    shape = transformers.T5Config.from_pretrained(t5_folder, vocab_size=384)
    transformers.T5ForConditionalGeneration(shape).save_pretrained(folder)
    small = [f"data.options.{k}={v}" for k, v in DATA.items()]
    config = compose(["data=facts", f"model.init_from={folder}", *small])
    made = preprocess(config.data, tmp_path / "data")
    model, tokenizer, _ = fit(replace(config, trainer=settings.trainer), made, tmp_path / "run")
    assert len({tokenizer.piece(i) for i in range(len(tokenizer))}) == 384
    assert model.config.vocab_size == 384


def test_added_tokens_are_learnt_with_the_rest(t5_folder, tmp_path):
    small = [f"data.options.{k}={v}" for k, v in DATA.items()]
    config = compose(["data=facts", f"model.init_from={t5_folder}", "data.tokenizer.add=[Q1,Q2,Q3,Q4,Q5]", *small])
    folder = preprocess(config.data, tmp_path).folder
    from memgpt_cli.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    model = make_model(config, tokenizer)
    plain = load_pretrained(t5_folder)
    assert model.config.vocab_size == plain.config.vocab_size + 1  # four rows were free
    assert tokenizer.encode("Q5") == [model.config.vocab_size - 1]
    assert merged_weights(model).keys() == plain.state_dict().keys()
