"""Every preset composes, and every mistake is answered in one line with what to type."""

from pathlib import Path

import pytest

from memgpt_cli.config import Config, all_keys, choices, compose, conf_dir, override, to_dict
from memgpt_cli.data.sources import find_source, make_options
from memgpt_cli.errors import ConfigError, UsageError
from memgpt_cli.schema import ModelConfig

PRESETS = [f"{g}={n}" for g in ("data", "model", "optim", "trainer", "store", "experiment", "debug") for n in choices(g)]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_composes(preset):
    config = compose([preset])
    make_options(find_source(config.data.source), config.data.options)


def test_every_preset_says_how_it_is_used():
    for file in conf_dir().rglob("*.yaml"):
        lines = file.read_text().splitlines()
        assert any("memgpt " in line and line.startswith("# ") for line in lines[:3]), file


@pytest.mark.parametrize(
    ("override_", "message"),
    [
        ("trainer=gpu5", "there is no trainer preset 'gpu5'. Did you mean 'trainer=gpu"),
        ("optim.lrr=3", "'optim.lrr' is not a setting. Did you mean 'optim.lr'"),
        ("learning_rate=3", "Did you mean 'optim.lr'"),
        ("+model.d_modle=3", "'model.d_modle' is not a setting. Did you mean 'model.d_model'"),
        ("cpu", "expected key=value, as in 'trainer=cpu'. Did you mean 'trainer=cpu'"),
        ("optim.lr=fast", "'optim.lr' is 'fast', expected float"),
        ("model.d_model=1.5", "'model.d_model' is 1.5, expected int"),
        ("model.d_kv=31", r"model.d_kv \(31\) must be even"),
        ("data.chat.silence=<S>", "cannot be read: quote the value"),
        ("optim.schedule=cosin", "expected one of cosine, constant, rsqrt. Did you mean 'cosine'"),
        ("data.limits.on_long_input=trunkate", "Did you mean 'truncate'"),
        ("trainer.precision=bf61", "trainer.precision is 'bf61'"),
        ("trainer.val_every=0", "trainer.val_every is 0, expected at least 1"),
        ("generate.beams=0", "generate.beams is 0, expected at least 1"),
    ],
)
def test_mistakes_are_answered_in_one_line(override_, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose([override_])
    assert "\n" not in str(caught.value)


def test_every_setting_can_be_overridden():
    keys = all_keys()
    assert {"model.memory.top_k", "data.augment.rename.probability", "trainer.max_minutes"} <= set(keys)
    assert compose(["model.position=relative"]).model.position == "relative"
    assert compose(["data.options.turns=5"]).data.options["turns"] == 5
    assert compose(["optim.lr=2e-4"]).optim.lr == 2e-4


def test_a_run_keeps_its_own_settings_under_overrides():
    base = compose(["experiment=facts", "model.d_model=64"])
    changed = override(base, ["eval.split=valid", "generate.beams=2"])
    assert changed.model == base.model
    assert changed.data == base.data
    assert (changed.eval.split, changed.generate.beams) == ("valid", 2)
    assert override(base, ["data=babi"]).data.name == "babi"
    assert override(base, []) is base


def test_options_of_a_source_are_checked():
    with pytest.raises(ConfigError, match="data.options.turn is not an option of this source. Did you mean 'turns'"):
        make_options(find_source("dialogue"), {"turn": 3})
    with pytest.raises(ConfigError, match="data.options.turns is 'three', expected int"):
        make_options(find_source("dialogue"), {"turns": "three"})
    with pytest.raises(UsageError, match="is not a source. Did you mean 'kdconv'"):
        find_source("kdcon")


def test_a_folder_of_presets_of_ones_own(tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("d_model: 48\n")
    assert compose(["model=mine"], tmp_path).model.d_model == 48


def test_round_trip_through_plain_values():
    from memgpt_cli.config import build

    config = compose(["experiment=facts"])
    assert build(Config, to_dict(config)) == config
    assert isinstance(config.model, ModelConfig)


def test_own_rows_bring_how_they_are_trained():
    config = compose(["data=records", "data.path=mine"])
    assert (config.optim.optimizer, config.data.distractors, config.model.convolution) == ("muon", 16, True)
    assert compose(["data=records", "data.path=mine", "optim.optimizer=adamw"]).optim.optimizer == "adamw"
    assert not compose(["data=records", "data.path=mine", "model=t5_tiny"]).model.convolution
    finetuned = compose(["data=records", "data.path=mine", "model.init_from=google/flan-t5-base"])
    assert (finetuned.optim.optimizer, finetuned.model.memory.vector) == ("adamw", False)


def test_the_companion_brings_how_it_is_trained():
    config = compose([])
    assert (config.data.source, config.optim.optimizer) == ("companion", "muon")
    assert compose(["data=companion"]) == config
    assert compose(["trainer.max_steps=7", "optim.lr=1e-3"]).optim.optimizer == "muon"
    assert compose(["trainer.max_steps=7", "optim.lr=1e-3"]).optim.lr == 1e-3
    assert compose(["experiment=restaurant"]).optim.optimizer == "adamw"
    assert compose(["data=dialog_babi"]).optim.optimizer == "adamw"
    assert compose(["model=flan_t5_base"]).optim.optimizer == "adamw", "pretrained weights are tuned as others are"


def test_presets_of_pretrained_models_bring_their_optimiser():
    config = compose(["model=flan_t5_base"])
    assert (config.model.init_from, config.optim.average, config.data.name) == (
        "google/flan-t5-base",
        0.0,
        "companion-flan-t5-base",
    )
    assert compose(["model=flan_t5_base", "optim=adamw"]).optim.average == 0.999
    with pytest.raises(ConfigError, match=r"model.n_heads comes from the checkpoint"):
        compose(["model=flan_t5_base", "model.n_heads=2"])


def test_pretrained_weights_over_a_corpus_are_asked_for_its_evidence():
    over = compose(["data=records", "model.init_from=google/flan-t5-base", "data.corpus=docs"])
    assert (over.model.memory.words, over.optim.evidence_weight) == (True, 0.5)
    given = compose(["data=records", "model.init_from=google/flan-t5-base", "data.corpus=docs", "model.memory.words=false"])
    assert (given.model.memory.words, given.optim.evidence_weight) == (False, 0.5)
