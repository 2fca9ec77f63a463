"""The T5 family's names for what our modules hold: one table, read in both directions.

T5 (arXiv 1910.10683), T5 v1.1 and LM-adapt, Flan-T5, UL2, mT5, ByT5 are one architecture; umT5 (arXiv 2304.09151) has a
position bias in every layer; LongT5 (arXiv 2112.07916) with local attention has an encoder that sees a window.
"""

from dataclasses import replace
from typing import Any

from memgpt_cli.errors import CheckpointError
from memgpt_cli.schema import ModelConfig

FAMILIES = ("t5", "mt5", "umt5", "longt5")
_NOT_YET = {
    "t5gemma": "soft-capped logits, norms after every sublayer, grouped-query and windowed attention",
    "t5gemma2": "soft-capped logits, norms after every sublayer, grouped-query attention, merged self- and cross-attention",
}
_ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu", "silu": "silu", "swish": "silu"}
_WHY_NOT_GLOBAL = "its encoder adds a summary token for every 16 inputs to each layer's keys (transient-global attention)"

# a leftover of the first T5 releases that transformers ignores too; the embedding's copies
_IGNORED = (
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
    "encoder.embed_tokens.weight",
    "decoder.embed_tokens.weight",
)


def shape_of(description: dict[str, Any], where: object) -> dict[str, Any]:
    """The settings of ModelConfig that a `config.json` of the family fixes; raises CheckpointError for what does not fit."""
    family = description.get("model_type")
    if family in _NOT_YET:
        raise CheckpointError(
            f"{where} is a {family}: not supported, since it has {_NOT_YET[family]}. Supported: {', '.join(FAMILIES)}"
        )
    if family not in FAMILIES:
        raise CheckpointError(f"{where} is a '{family}' model, expected one of the T5 family: {', '.join(FAMILIES)}")
    if family == "longt5" and description.get("encoder_attention_type", "local") != "local":
        raise CheckpointError(f"{where} is a LongT5 that is not supported: {_WHY_NOT_GLOBAL}. LongT5 with local attention is")
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    off = [
        f"{name} {description[name]}, expected {value}"
        for name, value in ids.items()
        if description.get(name, value) not in (value, None)
    ]
    if off:
        raise CheckpointError(f"{where} has {'; '.join(off)}")
    projection = description.get("feed_forward_proj", "gated-gelu" if family in ("mt5", "umt5") else "relu")
    gated = projection.startswith("gated-")
    # "gated-gelu" is the approximation that T5 v1.1 was trained with, "gelu" alone is not
    activation = "gelu_new" if projection == "gated-gelu" else projection.removeprefix("gated-")
    if activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"{where} has feed_forward_proj '{projection}', expected one of {', '.join(_ACTIVATIONS)}, gated or not"
        )
    try:
        return {
            "vocab_size": description["vocab_size"],
            "d_model": description["d_model"],
            "n_heads": description["num_heads"],
            "d_kv": description["d_kv"],
            "d_ff": description["d_ff"],
            "n_encoder_layers": description["num_layers"],
            "n_decoder_layers": description.get("num_decoder_layers") or description["num_layers"],
            "activation": _ACTIVATIONS[activation],
            "gated": gated,
            "position": "relative_per_layer" if family == "umt5" else "relative",
            "relative_buckets": description.get("relative_attention_num_buckets", 32),
            "relative_max_distance": description.get("relative_attention_max_distance", 128),
            "encoder_window": description.get("local_radius", 127) if family == "longt5" else 0,
            "norm_eps": description.get("layer_norm_epsilon", 1e-6),
            "scale_embeddings": False,
            "scale_attention": False,
            "scale_logits": _scales_logits(description),
        }
    except KeyError as error:
        raise CheckpointError(f"{where}/config.json has no {error}") from error


def _scales_logits(description: dict[str, Any]) -> bool:
    """Two conventions are about: transformers 5 says so itself, older files by whether embedding and head were tied.

    For umT5 transformers 5 forgets the older files' `tie_word_embeddings: false` and scales; they were trained without, as
    transformers 4 ran them, and so are they run here.
    """
    if description["model_type"] == "mt5":
        return False
    return bool(description.get("scale_decoder_outputs", description.get("tie_word_embeddings", True)))


def weight_names(config: ModelConfig, decoder: bool = True) -> dict[str, str]:
    """Our parameter names, without those of memory, to the family's; only embedding and encoder without `decoder`."""
    names = {"embedding.weight": "shared.weight"}
    attention = "LocalSelfAttention" if config.encoder_window else "SelfAttention"
    stacks = [("encoder", config.n_encoder_layers, attention)]
    if decoder:
        stacks.append(("decoder", config.n_decoder_layers, "SelfAttention"))
    for stack, layers, kind in stacks:
        names[f"{stack}.norm.weight"] = f"{stack}.final_layer_norm.weight"
        if config.position == "relative":
            names[f"{stack}.position.weight.weight"] = f"{stack}.block.0.layer.0.{kind}.relative_attention_bias.weight"
        for n in range(layers):
            parts = [("attention", kind)] + ([("read", "EncDecAttention")] if stack == "decoder" else [])
            for place, (ours, theirs) in enumerate(parts):
                layer, block = f"{stack}.layers.{n}.{ours}", f"{stack}.block.{n}.layer.{place}"
                names[f"{layer}_norm.weight"] = f"{block}.layer_norm.weight"
                names |= {f"{layer}.{x}.weight": f"{block}.{theirs}.{x}.weight" for x in "qkvo"}
            if config.position == "relative_per_layer":
                bias = f"{stack}.block.{n}.layer.0.{kind}.relative_attention_bias.weight"
                names[f"{stack}.layers.{n}.attention.position.weight.weight"] = bias
            layer, block = f"{stack}.layers.{n}.feed_forward", f"{stack}.block.{n}.layer.{len(parts)}"
            names[f"{layer}_norm.weight"] = f"{block}.layer_norm.weight"
            ups = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if config.gated else {"up": "wi", "down": "wo"}
            names |= {f"{layer}.{ours}.weight": f"{block}.DenseReluDense.{theirs}.weight" for ours, theirs in ups.items()}
    if decoder and not config.tie_embeddings:
        names["head.weight"] = "lm_head.weight"
    return names


def rename(weights: dict[str, Any], config: ModelConfig, decoder: bool) -> dict[str, Any]:
    """A checkpoint's tensors under our names. What has no place here keeps its own, so that it can be reported."""
    ours = {theirs: name for name, theirs in weight_names(config, decoder).items()}
    known = dict(weights)
    if "shared.weight" not in known:  # encoders saved alone may hold the embedding under this name only
        known["shared.weight"] = known.get("encoder.embed_tokens.weight", known.get("decoder.embed_tokens.weight"))
    for name in _IGNORED:
        known.pop(name, None)
    if not decoder:
        known = {name: value for name, value in known.items() if not name.startswith(("decoder.", "lm_head."))}
    if config.tie_embeddings:
        known.pop("lm_head.weight", None)
    return {ours.get(name, name): value for name, value in known.items() if value is not None}


def description_of(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a model that is T5 in all but memory; raises CheckpointError with every setting that is not."""
    wrong = [
        f"model.{name}={getattr(config, name)} (T5 has False)"
        for name in ("scale_embeddings", "scale_attention", "copy", "convolution", "qk_norm")
        if getattr(config, name)
    ]
    if config.memory.vector:
        wrong.append("model.memory.vector=True (T5 has none)")
    if config.position == "rope":
        wrong.append("model.position=rope (T5 has relative)")
    if wrong:
        raise CheckpointError(f"this model is no T5, so transformers cannot hold it: {'; '.join(wrong)}")
    per_layer = config.position == "relative_per_layer"
    family = "umt5" if per_layer else "longt5" if config.encoder_window else "t5"
    activation = {"gelu": "gelu_new" if not config.gated else "gelu"}.get(config.activation, config.activation)
    described = {
        "architectures": [{"t5": "T5", "umt5": "UMT5", "longt5": "LongT5"}[family] + "ForConditionalGeneration"],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "d_model": config.d_model,
        "d_kv": config.d_kv,
        "d_ff": config.d_ff,
        "num_layers": config.n_encoder_layers,
        "num_decoder_layers": config.n_decoder_layers,
        "num_heads": config.n_heads,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "feed_forward_proj": ("gated-" if config.gated else "") + activation,
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.norm_eps,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "is_encoder_decoder": True,
        # both conventions: the first is what releases before transformers 5, and CTranslate2, read the scaling from
        "tie_word_embeddings": config.scale_logits or per_layer,
        "scale_decoder_outputs": config.scale_logits or per_layer,
    }
    if family == "longt5":
        described |= {"local_radius": config.encoder_window, "encoder_attention_type": "local"}
    return described


def with_shape(asked: ModelConfig, shape: dict[str, Any], tied: bool) -> ModelConfig:
    """What was asked for, with the checkpoint's shape; the size of the vocabulary grows where it is asked to.

    A decoder that starts from random weights says what it says through the encoder's embedding, scaled so that its first
    logits are about as wide as a word's, whatever the checkpoint's own head was.
    """
    rows = max(shape["vocab_size"], asked.vocab_size)
    head = {"tie_embeddings": tied} if asked.init_parts == "all" else {"tie_embeddings": True, "scale_logits": True}
    return replace(asked, **{**shape, **head, "vocab_size": rows})


def logits_factor(config: ModelConfig) -> float:
    """What a family's fixed convention multiplies logits by and this model does not: exports fold its inverse into a norm.

    umT5's logits are always scaled in transformers 5, though its checkpoints were trained without.
    """
    return config.d_model**0.5 if config.position == "relative_per_layer" and not config.scale_logits else 1.0
