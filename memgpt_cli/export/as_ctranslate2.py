"""CTranslate2: fast inference of the plain T5. It has no memory, so entries cannot be read there; this export says so."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgpt_cli.config import GenerateConfig
from memgpt_cli.errors import CheckpointError
from memgpt_cli.export.as_hf import MOST_NEW, write_plain
from memgpt_cli.export.source import Exported, Source, compare
from memgpt_cli.extras import need
from memgpt_cli.inference.decode import generate
from memgpt_cli.model.inputs import plain_batch
from memgpt_cli.tokenizer import PAD


def write_ctranslate2(source: Source, folder: Path) -> Exported:
    """Converts through the Hugging Face format; log-probabilities and greedy outputs must be ours."""
    need("transformers", "this export"), need("ctranslate2", "this export")
    if source.model.config.encoder_window:
        raise CheckpointError("CTranslate2 has no local attention, so it cannot hold a LongT5")
    with tempfile.TemporaryDirectory() as scratch:
        write_plain(source, Path(scratch))
        _converter(scratch, source.model.config.scale_logits).convert(str(folder), force=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if (Path(scratch) / name).is_file():
                (folder / name).write_bytes((Path(scratch) / name).read_bytes())
    checks = [_check_scores(source, folder)] + [_check_outputs(source, folder, beams) for beams in (1, 4)]
    return Exported(folder, checks, ["CTranslate2 reads no memory: this is the model without its entries"])


def _converter(folder: str, scaled: bool) -> Any:
    import transformers
    from ctranslate2.converters import TransformersConverter

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, model_class: Any, name: str, **settings: Any) -> Any:
            """CTranslate2 reads from `tie_word_embeddings` whether logits are scaled; transformers 5 says True for all."""
            model = super().load_model(model_class, name, **settings)
            model.config.tie_word_embeddings = scaled
            return model

    return Converter(folder)


def _translator(folder: Path) -> Any:
    import ctranslate2

    return ctranslate2.Translator(str(folder), device="cpu", compute_type="float32")


def _piece(source: Source, i: int) -> str:
    """CTranslate2's name of an id; rows of the embedding past the tokenizer's last are named as its converter names them."""
    size = len(source.tokenizer)
    return source.tokenizer.piece(i) if i < size else f"<extra_id_{i - size}>"


def _pieces(source: Source, ids: Tensor) -> list[list[str]]:
    return [[_piece(source, i) for i in row[row != 0].tolist()] for row in ids]


def _check_scores(source: Source, folder: Path) -> str:
    """The log-probability of each target token: greedy outputs alone would not show a wrong scale."""
    texts, targets = source.samples()
    inputs, wanted = source.ids(texts), source.ids(targets)
    ours = source.logits(inputs, wanted).log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
    scored = _translator(folder).score_batch(_pieces(source, inputs), [p[:-1] for p in _pieces(source, wanted)])
    theirs = torch.nn.utils.rnn.pad_sequence([torch.tensor(s.log_probs) for s in scored], batch_first=True)
    return compare("log-probabilities of target tokens", ours[:, : theirs.shape[1]], theirs, wanted != 0)


def _without_padding(logits: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """CTranslate2 takes what may not be said out before the softmax, we and transformers after it: scores of beams differ."""

    def masked(hidden: Tensor) -> Tensor:
        return logits(hidden).index_fill(-1, torch.tensor(PAD), -torch.inf)

    return masked


def _check_outputs(source: Source, folder: Path, beams: int) -> str:
    import ctranslate2

    texts, _ = source.samples()
    inputs = source.ids(texts)
    batch = plain_batch(inputs, torch.ones(len(texts), 1, dtype=torch.long))
    model = copy.copy(source.model)  # the same weights
    model.vocab_logits = _without_padding(source.model.vocab_logits)  # type: ignore[method-assign, assignment]
    made = generate(model, batch, GenerateConfig(max_tokens=MOST_NEW, beams=beams)).ids
    settings = {
        "beam_size": beams,
        "max_decoding_length": MOST_NEW,
        "min_decoding_length": 0,
        "suppress_sequences": [["<pad>"]],
    }
    found = _translator(folder).translate_batch(_pieces(source, inputs), **settings)
    ours = [[_piece(source, i) for i in rows[0] if i > 1] for rows in made]
    theirs = [[p for p in result.hypotheses[0] if p not in ("<pad>", "</s>")] for result in found]
    equal = sum(a == b for a, b in zip(ours, theirs, strict=True))
    name = "greedy outputs" if beams == 1 else f"outputs of {beams} beams"
    if equal < len(texts):
        raise CheckpointError(
            f"the export is not the same model: {len(texts) - equal} of {len(texts)} {name} differ in CTranslate2"
        )
    return f"CTranslate2 {ctranslate2.__version__}, {name} of {MOST_NEW} tokens: {equal} of {len(texts)} equal"
