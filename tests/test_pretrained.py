"""Pretrained models equal transformers' own: logits, states, gradients, greedy and beam outputs, family by family."""

import json
from dataclasses import replace

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="memgpt-cli[hf] is not installed")

from memgpt_cli.checkpoint import extend_vocabulary, load_pretrained  # noqa: E402
from memgpt_cli.checkpoint.pretrained import PRETRAINED  # noqa: E402
from memgpt_cli.config import GenerateConfig  # noqa: E402
from memgpt_cli.data.collate import collate  # noqa: E402
from memgpt_cli.data.dataset import encode  # noqa: E402
from memgpt_cli.errors import CheckpointError  # noqa: E402
from memgpt_cli.inference.decode import generate  # noqa: E402
from memgpt_cli.model.inputs import plain_batch  # noqa: E402

from conftest import make_episode  # noqa: E402  # isort: skip

SHAPE = {  # odd on purpose: heads times their width is not d_model, the stacks differ in depth
    "vocab_size": 71, "d_model": 24, "d_kv": 10, "d_ff": 36, "num_heads": 3, "num_layers": 2, "num_decoder_layers": 3,
    "relative_attention_num_buckets": 12, "relative_attention_max_distance": 20, "dropout_rate": 0.1, "decoder_start_token_id": 0,
}  # fmt: skip
FAMILIES = {  # class prefix, settings, whether head and embedding differ
    "t5": ("T5", {}, False),
    "t5-v1.1": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, True),
    "flan-t5-tied": ("T5", {"feed_forward_proj": "gated-gelu"}, False),
    "ul2": ("T5", {"feed_forward_proj": "gated-silu", "tie_word_embeddings": False}, True),
    "byt5": ("T5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_layers": 4, "num_decoder_layers": 1}, True),
    "mt5": ("MT5", {}, True),
    "umt5": ("UMT5", {}, True),
    "t5-scaled-untied": ("T5", {}, True),
    "umt5-tied": ("UMT5", {}, False),
    "longt5-local": ("LongT5", {"encoder_attention_type": "local", "local_radius": 4, "feed_forward_proj": "gated-gelu"}, False),
}  # fmt: skip
SENSIBLE = {"max_tokens": 12}


def make_theirs(family: str):
    """A transformers model of the family with random weights, large enough that outputs differ from place to place."""
    prefix, settings, untied = FAMILIES[family]
    torch.manual_seed(3)
    config = getattr(transformers, prefix + "Config")(**{**SHAPE, **settings})
    theirs = getattr(transformers, prefix + "ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            if "relative_attention_bias" in name:
                weight.normal_(0, 1)
            elif "layer_norm" in name:
                weight.uniform_(0.5, 1.5)
    if untied:
        theirs.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, config.d_model) * 0.3)
    return theirs


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    theirs = make_theirs(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load_pretrained(folder), folder


def texts(seed: int = 0):
    torch.manual_seed(seed)
    inputs, targets = torch.randint(3, 71, (3, 30)), torch.randint(3, 71, (3, 9))
    inputs[1, 22:], inputs[2, 5:], targets[1, 6:] = 0, 0, 0
    return inputs, targets


def close(ours, theirs, tolerance=1e-4):
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() <= tolerance * scale, f"{(ours - theirs).abs().max() / scale:.2e} off"


def test_logits_and_states_are_theirs(pair):
    theirs, ours, _ = pair
    inputs, targets = texts()
    expected = theirs(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=targets, output_hidden_states=True)
    close(ours(inputs, targets), expected.logits)
    real = (inputs != 0)[..., None]
    close(ours.encode(inputs) * real, expected.encoder_last_hidden_state * real)
    assert expected.logits.std() > 0.01, "a model that says the same everywhere proves nothing"


def test_gradients_are_theirs(pair):
    theirs, ours, folder = pair
    inputs, targets = texts(1)
    from memgpt_cli.checkpoint.families import weight_names

    mask = (inputs != 0).long()
    labels = targets.masked_fill(targets == 0, -100)
    theirs.zero_grad()
    theirs(input_ids=inputs, attention_mask=mask, decoder_input_ids=theirs._shift_right(targets), labels=labels).loss.backward()
    ours.zero_grad()
    logits = ours(inputs, targets)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100).backward()
    expected = dict(theirs.named_parameters())
    names = weight_names(ours.config)
    assert len(names) == sum(1 for n in expected if n not in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"))
    for mine, other in names.items():
        close(dict(ours.named_parameters())[mine].grad, expected[other].grad)


def test_bf16_stays_within_its_own_noise(pair):
    theirs, ours, folder = pair
    inputs, targets = texts(2)
    exact = ours(inputs, targets)
    half = load_pretrained(folder, dtype=torch.bfloat16)(inputs, targets)
    reference = theirs.__class__.from_pretrained(folder, dtype=torch.bfloat16).eval()
    other = reference(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=targets).logits.float()
    noise, own = (other - exact).abs().mean(), (half - exact).abs().mean()
    assert own <= 1.5 * noise + 1e-3 * exact.abs().mean(), f"{own:.4f} against transformers' own {noise:.4f}"


@pytest.mark.parametrize(("beams", "penalty"), [(1, 1.0), (2, 2.0), (4, 1.0), (4, 0.6)])
def test_generated_tokens_are_theirs(pair, beams, penalty, monkeypatch):
    """With the end of text made likelier on both sides, so that outputs end at all lengths and hypotheses compete."""
    theirs, ours, _ = pair
    inputs, _ = texts(4)
    said = theirs.generate(  # without a cache, since theirs has as many layers as the encoder
        inputs, attention_mask=(inputs != 0).long(), num_beams=beams, do_sample=False, max_new_tokens=12, use_cache=False,
        suppress_tokens=[0], length_penalty=penalty, sequence_bias={(1,): 2.5},
    )  # fmt: skip
    plain = ours.log_probs
    monkeypatch.setattr(ours, "log_probs", lambda *args: plain(*args) + 2.5 * torch.eye(71)[1])
    batch = plain_batch(inputs, torch.ones(3, 1, dtype=torch.long))
    made = generate(ours, batch, GenerateConfig(beams=beams, length_penalty=penalty, **SENSIBLE)).ids
    for row, expected in zip(made, said.tolist(), strict=True):
        body = [i for i in expected[1:] if i != 0]
        assert row[0] == (body[: body.index(1)] if 1 in body else body)


def test_attached_memory_changes_nothing_until_it_is_trained(pair, tokenizer):
    """Empty, or full and at its initial gate: what is said is the pretrained model's; and the gate has a gradient."""
    _, ours, _ = pair
    row = encode(make_episode(2), tokenizer)
    parts = ("entry_ids", "input_ids", "target_ids")
    row = replace(row, **{part: [[i % 68 + 3 for i in ids] for ids in getattr(row, part)] for part in parts})
    batch = collate([row])
    assert batch.memory_tokens.shape[1] > 5
    context = ours.read(batch)
    decoded = ours.decode_targets(batch, context)
    with_memory = decoded.packing.unpack(ours.vocab_logits(decoded.hidden))
    for example in range(3):
        there = batch.input_tokens[0, example] != 0
        alone = ours(batch.input_tokens[:, example][:, there], batch.targets[:, example])
        real = batch.targets[0, example] != 0
        close(with_memory[0, example][real], alone[0][real], 1e-5)
    ours.zero_grad()
    with_memory.square().mean().backward()
    gates = [layer.read.gate for layer in ours.decoder.layers]
    assert all(gate.grad.abs().sum() > 0 for gate in gates), "a gate without gradient would never open"
    with torch.no_grad():
        for gate in gates:
            gate.fill_(0.5)
    opened = decoded.packing.unpack(ours.vocab_logits(ours.decode_targets(batch, ours.read(batch)).hidden))
    assert (opened - with_memory).abs().max() > 1e-3, "an open gate reads"
    ours.zero_grad()
    opened.square().mean().backward()
    assert ours.retriever.query.weight.grad.abs().sum() > 0
    with torch.no_grad():
        for gate in gates:
            gate.zero_()


def test_gradient_checkpointing_changes_no_gradient(pair):
    _, ours, _ = pair
    inputs, targets = texts(5)
    ours.train()
    found = []
    for on in (False, True):
        ours.encoder.checkpointing = ours.decoder.checkpointing = on
        ours.zero_grad()
        torch.manual_seed(0)  # dropout
        ours(inputs, targets).square().mean().backward()
        found.append([p.grad.clone() for p in ours.parameters() if p.grad is not None])
    ours.eval()
    ours.encoder.checkpointing = ours.decoder.checkpointing = False
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    theirs = make_theirs("t5-v1.1")
    folder = tmp_path_factory.mktemp("plain")
    theirs.save_pretrained(folder)
    return theirs, folder


def copy_of(folder, into, without=()):
    import shutil

    for path in folder.iterdir():
        if path.name not in without:
            shutil.copy(path, into)
    return into


def test_shards_and_old_formats_are_read(plain, tmp_path):
    theirs, folder = plain
    inputs, targets = texts()
    expected = load_pretrained(folder)(inputs, targets)
    sharded = tmp_path / "sharded"
    theirs.save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 3
    assert torch.equal(load_pretrained(sharded)(inputs, targets), expected)
    (tmp_path / "old").mkdir()
    old = copy_of(folder, tmp_path / "old", ("model.safetensors",))
    torch.save(theirs.state_dict(), old / "pytorch_model.bin")
    assert torch.equal(load_pretrained(old)(inputs, targets), expected)
    next(iter(sorted(sharded.glob("model-*.safetensors")))).unlink()
    with pytest.raises(CheckpointError, match=r"1 of the \d+ shards .* are missing"):
        load_pretrained(sharded)


class Hostile:
    def __reduce__(self):
        return (print, ("code ran while loading weights",))


def test_code_in_a_weights_file_never_runs(plain, tmp_path, capsys):
    folder = copy_of(plain[1], tmp_path, ("model.safetensors",))
    torch.save({"shared.weight": Hostile()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as tensors"):
        load_pretrained(folder)
    assert "code ran" not in capsys.readouterr().out


def test_an_encoder_alone_can_be_loaded(plain, tmp_path):
    theirs, folder = plain
    transformers.T5EncoderModel.from_pretrained(folder).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"missing decoder.*; and \d+ more.*model.init_parts=encoder"):
        load_pretrained(tmp_path)
    for source in (tmp_path, folder):  # of a whole model the decoder is left
        model = load_pretrained(source, replace(PRETRAINED, init_parts="encoder"))
        inputs, targets = texts()
        close(model.encode(inputs)[0], theirs.encoder(inputs[:1]).last_hidden_state[0])
        assert not torch.equal(
            model.decoder.layers[0].attention.q.weight, theirs.decoder.block[0].layer[0].SelfAttention.q.weight
        )
        first = torch.nn.functional.cross_entropy(model(inputs, targets).flatten(0, 1), targets.flatten(), ignore_index=0)
        assert first < 2 * torch.tensor(71.0).log(), "a new decoder starts near chance"


def test_everything_that_does_not_fit_is_named(plain, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_of(plain[1], tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.final_layer_norm.weight")
    weights["encoder.block.0.layer.0.SelfAttention.q.bias"] = torch.zeros(30)
    weights["decoder.block.1.layer.2.DenseReluDense.wo.weight"] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_pretrained(folder)
    said = str(caught.value)
    assert "missing encoder.final_layer_norm.weight" in said
    assert "unexpected encoder.block.0.layer.0.SelfAttention.q.bias" in said
    assert "decoder.block.1.layer.2.DenseReluDense.wo.weight is [2, 2], expected [24, 36]" in said


@pytest.mark.parametrize("family", ["t5", "t5-v1.1", "mt5", "umt5", "longt5-local"])
def test_files_of_older_releases_say_the_same(family, tmp_path):
    """transformers 4 wrote no `scale_decoder_outputs`: whether logits are scaled follows from `tie_word_embeddings`."""
    theirs = make_theirs(family)
    theirs.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    scaled = described.pop("scale_decoder_outputs", family != "mt5")
    (tmp_path / "config.json").write_text(json.dumps(described | {"tie_word_embeddings": bool(scaled)}))
    inputs, targets = texts()
    expected = theirs(input_ids=inputs, attention_mask=(inputs != 0).long(), labels=targets).logits
    close(load_pretrained(tmp_path)(inputs, targets), expected)
    if family == "umt5":  # trained without scaling, and so run by transformers 4; transformers 5 forgets it
        (tmp_path / "config.json").write_text(json.dumps(described | {"tie_word_embeddings": False}))
        close(load_pretrained(tmp_path)(inputs, targets), expected * described["d_model"] ** 0.5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "bart"}, "'bart' model, expected one of the T5 family"),
        ({"model_type": "t5gemma"}, "soft-capped logits"),
        ({"model_type": "longt5", "encoder_attention_type": "transient-global"}, "summary token for every 16 inputs"),
        ({"feed_forward_proj": "gated-tanh"}, "feed_forward_proj 'gated-tanh'"),
        ({"decoder_start_token_id": 2}, "decoder_start_token_id 2, expected 0"),
    ],
)
def test_what_is_not_supported_says_why(plain, tmp_path, change, reason):
    folder = copy_of(plain[1], tmp_path)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | change))
    with pytest.raises(CheckpointError, match=reason):
        load_pretrained(folder)


def test_new_tokens_get_average_rows_and_old_logits_stay(plain):
    _, folder = plain
    inputs, targets = texts()
    before = load_pretrained(folder)(inputs, targets)
    model = load_pretrained(folder, replace(PRETRAINED, vocab_size=75))
    assert model.config.vocab_size == 75
    after = model(inputs, targets)
    assert after.shape[-1] == 75
    assert torch.equal(after[..., :71], before)
    close(after[..., 71:].mean(-1), before.mean(-1), 0.1)
    assert not torch.equal(model.embedding.weight[72], model.embedding.weight[73]), "two new tokens can be told apart"
    extend_vocabulary(model, 80)
    assert model(inputs, targets).shape[-1] == 80
