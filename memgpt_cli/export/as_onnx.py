"""ONNX: an encoder and a decoder as two graphs, memory included, checked in onnxruntime.

    encoder.onnx   input_ids [B, L] (0 pads) -> states [B, L, D], key [B, D], query [B, D]
    decoder.onnx   said [B, T] (0 starts), input_states [B, S, D], input_ids [B, S],
                   memory_states [B, M, D], memory_bias [B, H, M] -> logits [B, T, V]

An entry's tokens are its states from the encoder plus the tables of kinds and times in `memory.safetensors`, the null slot
first; their bias is the one equation of docs/architecture.md, or -1e4 for a slot that is not read.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memgpt_cli.checkpoint.weights import write_tensors
from memgpt_cli.config import to_dict
from memgpt_cli.errors import CheckpointError
from memgpt_cli.export.source import Exported, Source, compare
from memgpt_cli.extras import need
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.model.attention import MASKED, causal_bias
from memgpt_cli.model.transformer import mean_state
from memgpt_cli.tokenizer import LosslessTokenizer


class EncoderGraph(nn.Module):
    def __init__(self, model: MemoryTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        states = self.model.encode(input_ids)
        mean = mean_state(states, input_ids)
        return states, self.model.retriever.vectors(mean), self.model.retriever.queries(mean)


class DecoderGraph(nn.Module):
    """The decoder over one example a row, written out: no packing, which serves many examples that share a memory."""

    def __init__(self, model: MemoryTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, said: Tensor, input_states: Tensor, input_ids: Tensor, memory_states: Tensor, memory_bias: Tensor
    ) -> Tensor:
        model, length = self.model, said.shape[1]
        own = torch.zeros(input_ids.shape, dtype=torch.float32).masked_fill(input_ids == 0, MASKED)
        bias = causal_bias(length, length, said.device)
        if model.decoder.position is not None:
            bias = bias + model.decoder.position(length, length)
        x = model.embed(said)
        for layer in model.decoder.layers:
            x = x + layer.attention(layer.attention_norm(x), bias)[0]
            x = x + _read(layer.read, layer.read_norm(x), (input_states, own), (memory_states, memory_bias))
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
        return model.vocab_logits(model.decoder.norm(x))


def _read(read: Any, x: Tensor, inputs: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor]) -> Tensor:
    """ReadAttention for one example a row: one softmax over input and memory, memory's share times its gate."""
    q = read.queries(x).transpose(1, 2) * read.scale  # [B, H, T, K]
    (own_k, own_v), (memory_k, memory_v) = read.project(inputs[0]), read.project(memory[0])
    own = q @ own_k.transpose(-1, -2) + inputs[1][:, None, None]
    found = q @ memory_k.transpose(-1, -2) + memory[1][:, :, None]
    share = torch.sigmoid(found.logsumexp(-1, keepdim=True) - own.logsumexp(-1, keepdim=True))
    if read.gate is not None:
        share = share * read.gate[:, None, None]
    out = (1 - share) * (own.softmax(-1) @ own_v) + share * (found.softmax(-1) @ memory_v)
    return read.o(out.transpose(1, 2).flatten(2))


def write_onnx(source: Source, folder: Path) -> Exported:
    """Both graphs, the tokenizer and the tables an application needs to build a memory."""
    runtime = need("onnxruntime", "this export")
    need("onnxscript", "this export")
    model = source.model
    if model.pointer is not None:
        raise CheckpointError(
            "the pointer head's lookup of what was just said has no ONNX form here: only models with model.copy=false are exported"
        )
    if model.vector is not None:
        raise CheckpointError(
            "the decoder's graph has no input vector: only models with model.memory.vector=false are exported"
        )
    if model.retriever.words is not None:
        raise CheckpointError(
            "the graphs have no score of shared words: only models with model.memory.words=false are exported"
        )
    encoder, decoder = EncoderGraph(model).eval(), DecoderGraph(model).eval()
    texts, targets = source.samples()
    inputs, wanted = source.ids(texts), source.ids(targets)
    fed = _decoder_inputs(encoder, inputs, wanted)
    sizes = {name: torch.export.Dim(name) for name in ("rows", "length", "tokens", "memory")}
    rows, length, tokens, slots = sizes.values()
    _write(encoder, (inputs,), ({0: rows, 1: length},), folder / "encoder.onnx", ["input_ids"], ["states", "key", "query"])
    shapes = ({0: rows, 1: tokens}, {0: rows, 1: length}, {0: rows, 1: length}, {0: rows, 1: slots}, {0: rows, 2: slots})
    names = ["said", "input_states", "input_ids", "memory_states", "memory_bias"]
    _write(decoder, fed, shapes, folder / "decoder.onnx", names, ["logits"])
    tables = {"null": model.null, "kind": model.kind.weight, "time": model.time.weight, "age_bias": model.retriever.age_bias}
    numbers = {"beta": model.retriever.beta, "scale": model.retriever.scale, "none": model.retriever.none}
    write_tensors({k: v.detach().clone() for k, v in (tables | numbers).items()}, folder / "memory.safetensors")
    (folder / "config.json").write_text(json.dumps({"model": to_dict(source.config.model)}, indent=1))
    source.tokenizer.save(folder)
    made = Exported(folder, _check(runtime, source, folder, (inputs, wanted), fed))
    if isinstance(source.tokenizer, LosslessTokenizer):
        made.notes.append("the tokenizer is a SentencePiece model that is given one space before every text")
    return made


def _decoder_inputs(encoder: EncoderGraph, inputs: Tensor, wanted: Tensor) -> tuple[Tensor, ...]:
    """Each row reads another row's input as an entry, the null slot first."""
    model = encoder.model
    with torch.inference_mode():
        states, keys, queries = encoder(inputs)
        other = inputs.roll(1, 0)
        null = model.null.expand(len(inputs), 1, -1)
        memory = torch.cat([null, states.roll(1, 0) + model.kind.weight[0]], 1)
        score = model.retriever.beta * (queries * keys.roll(1, 0)).sum(-1)[:, None, None]
        bias = (model.retriever.age_bias[0, 0][None, :, None] + score).expand(-1, -1, inputs.shape[1])
        bias = torch.cat([torch.zeros_like(bias[..., :1]), bias.masked_fill((other == 0)[:, None], MASKED)], -1)
    said = torch.nn.functional.pad(wanted, (1, -1))
    return tuple(t.clone() for t in (said, states, inputs, memory, bias))


def _write(graph: nn.Module, args: tuple[Tensor, ...], shapes: Any, path: Path, names: list[str], outputs: list[str]) -> None:
    import logging
    import warnings

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph, args, str(path), dynamo=True, dynamic_shapes=shapes, input_names=names, output_names=outputs,
            external_data=True, verbose=False, optimize=True,
        )  # fmt: skip


def _check(runtime: Any, source: Source, folder: Path, pairs: tuple[Tensor, Tensor], fed: tuple[Tensor, ...]) -> list[str]:
    """Both graphs against PyTorch, on the batch they were traced with and on another length; the decoder against the run."""
    inputs, wanted = pairs
    encoder = runtime.InferenceSession(str(folder / "encoder.onnx"), providers=["CPUExecutionProvider"])
    decoder = runtime.InferenceSession(str(folder / "decoder.onnx"), providers=["CPUExecutionProvider"])
    graph = EncoderGraph(source.model).eval()
    checks = []
    short = inputs[:2, : max(2, inputs.shape[1] // 2)]
    for name, ids in (("encoder states", inputs), ("encoder states at another length", short)):
        with torch.inference_mode():
            ours = graph(ids)[0]
        theirs = torch.from_numpy(encoder.run(None, {"input_ids": ids.numpy()})[0])
        checks.append(compare(name, ours, theirs, ids != 0))
    with torch.inference_mode():
        expected = DecoderGraph(source.model).eval()(*fed)
    asked = {i.name: t.numpy() for i, t in zip(decoder.get_inputs(), fed, strict=True)}
    found = torch.from_numpy(decoder.run(None, asked)[0])
    checks.append(compare("logits with an entry in memory", expected, found, torch.ones(found.shape[:2], dtype=torch.bool)))
    nothing = dict(asked) | {"memory_bias": asked["memory_bias"] * 0 + MASKED}
    alone = torch.from_numpy(decoder.run(None, nothing)[0])
    checks.append(compare("logits without memory, against the run's own", source.logits(inputs, wanted), alone, wanted != 0))
    return [f"onnxruntime {runtime.__version__}", *checks]
