"""Which parameters are trained, and with which optimiser: all, those that read memory, all but the encoder's, or LoRA's.

all       everything
memory    the parameters that only reading memory has; what the model says without memory stays as it is
decoder   all but the encoder's, so that the keys of stored entries stay valid (the store's fingerprint does not change)
lora      low-rank adapters (arXiv 2106.09685) through `peft`, and the parameters that read memory
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgpt_cli.checkpoint.families import weight_names
from memgpt_cli.checkpoint.runs import ENTRY_VECTOR, PEFT
from memgpt_cli.checkpoint.weights import write_tensors
from memgpt_cli.config import OptimConfig
from memgpt_cli.errors import UsageError
from memgpt_cli.extras import need
from memgpt_cli.files import new_folder
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import ModelConfig
from memgpt_cli.training.muon import MuonAdamW

_ADAPTER = "default"
_TABLES = ("embedding.", "head.", "time.", "kind.", "encoder.position", "decoder.position", "pointer.gate", "pointer.follow")
"""What is looked up, or comes last: no matrix that Muon is for."""
GATE_RATE = 10  # a gate goes from 0 to about 1, a hundred times as far as a weight


def choose_trainable(model: MemoryTransformer, optim: OptimConfig) -> MemoryTransformer:
    """Freezes what shall not be trained, or puts LoRA's adapters in; raises UsageError where `peft` is missing."""
    if optim.trainable == "lora":
        _add_adapters(model, optim)
    memory = model.memory_parameters()
    for name, weight in model.named_parameters():
        weight.requires_grad = {
            "all": True,
            "memory": name in memory,
            "decoder": not name.startswith(ENTRY_VECTOR),
            "lora": name in memory or "lora_" in name,
        }[optim.trainable]
    return model


def _add_adapters(model: MemoryTransformer, optim: OptimConfig) -> None:
    peft = need("peft", "optim.trainable=lora")
    targets = "|".join(optim.lora_targets)
    pattern = rf"(encoder|decoder)\.layers\.\d+\.(attention|read|feed_forward)\.({targets})"
    settings = peft.LoraConfig(
        r=optim.lora_rank, lora_alpha=optim.lora_alpha, lora_dropout=optim.lora_dropout, target_modules=pattern
    )
    peft.inject_adapter_in_model(settings, model, _ADAPTER)


def merged_weights(model: MemoryTransformer) -> dict[str, Tensor]:
    """The model's weights with LoRA's adapters added in: what generates, evaluates and is exported as any other model."""
    weights = {k.replace(".base_layer.", "."): v for k, v in model.state_dict().items() if ".lora_" not in k}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            weights[f"{name}.weight"] = module.base_layer.weight.detach() + module.get_delta_weight(_ADAPTER).detach()
    return weights


def save_adapter(model: MemoryTransformer, optim: OptimConfig, folder: Path) -> None:
    """LoRA's adapters as `peft` keeps them, by the names of the checkpoint they belong to.

    `PeftModel.from_pretrained(T5ForConditionalGeneration.from_pretrained(base), folder)` is the same model, without memory.
    """
    theirs = {k.removesuffix(".weight"): v.removesuffix(".weight") for k, v in weight_names(model.config).items()}
    tensors = {}
    for name, weight in model.state_dict().items():
        module, dot, part = name.partition(".lora_")
        if dot:
            side = part.split(".")[0]
            tensors[f"base_model.model.{theirs[module]}.lora_{side}.weight"] = weight.detach().cpu().contiguous()
    with new_folder(folder, PEFT) as partial:
        write_tensors(tensors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        (partial / "adapter_config.json").write_text(json.dumps(_adapter_config(model.config, optim), indent=1))


def _adapter_config(model: ModelConfig, optim: OptimConfig) -> dict[str, Any]:
    names = {"gate": "wi_0", "up": "wi_1" if model.gated else "wi", "down": "wo"}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": model.init_from,
        "revision": model.revision or None,
        "r": optim.lora_rank,
        "lora_alpha": optim.lora_alpha,
        "lora_dropout": optim.lora_dropout,
        "bias": "none",
        "target_modules": sorted(names.get(target, target) for target in optim.lora_targets),
        "inference_mode": True,
    }


def is_inner(name: str, weight: Tensor) -> bool:
    """Whether a parameter is a matrix between layers: Muon's."""
    return weight.dim() == 2 and name.endswith(".weight") and not name.startswith(_TABLES)


def make_optimizer(model: MemoryTransformer, optim: OptimConfig) -> torch.optim.Optimizer:
    """Weight decay on matrices only; learning rates of their own for the parameters that read memory, and for the embedding.

    Raises UsageError where 8-bit states were asked for and the machine or the library cannot.
    """
    memory, memory_lr = model.memory_parameters(), optim.memory_lr or optim.lr
    groups: dict[tuple[float, float, bool], list[Tensor]] = {}
    for name, weight in model.named_parameters():
        rate = GATE_RATE * memory_lr if name.endswith(".read.gate") else memory_lr if name in memory else optim.lr
        rate = optim.embedding_lr or rate if name == "embedding.weight" else rate
        decay = optim.weight_decay if weight.dim() > 1 else 0.0
        inner = optim.optimizer == "muon" and is_inner(name, weight)
        if weight.requires_grad:
            groups.setdefault((decay, rate, inner), []).append(weight)
    settings: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": decay, "lr": rate} | ({"muon": True} if inner else {})
        for (decay, rate, inner), weights in groups.items()
    ]
    if optim.optimizer == "muon":
        return MuonAdamW(settings, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    if optim.optimizer == "adafactor":
        return torch.optim.Adafactor(settings, lr=optim.lr)
    if optim.optimizer == "adamw8bit":
        return _eight_bit()(settings, lr=optim.lr, betas=optim.betas, eps=optim.eps)
    return torch.optim.AdamW(settings, lr=optim.lr, betas=optim.betas, eps=optim.eps)


def _eight_bit() -> Any:
    """bitsandbytes' AdamW with block-wise 8-bit states (arXiv 2110.02861)."""
    if not torch.cuda.is_available():
        raise UsageError("optim.optimizer=adamw8bit needs a CUDA GPU, found none: type optim.optimizer=adamw or adafactor")
    return need("bitsandbytes.optim", "optim.optimizer=adamw8bit").AdamW8bit
