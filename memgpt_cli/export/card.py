"""The model card of an export: what it was made from, how good it is, how its memory works, and how to use it."""

import json
from typing import Any

from memgpt_cli import __version__
from memgpt_cli.errors import CheckpointError
from memgpt_cli.export.source import Source
from memgpt_cli.hub import without_place


def model_card(source: Source, use: str) -> str:
    """Markdown with the hub's front matter, `use` being how this export is used. Every figure is from the run's own files."""
    config, model, notes = source.config, source.model.config, source.notes
    size = sum(p.numel() for p in source.model.parameters()) / 1e6
    limits, read, base = config.data.limits, model.memory, without_place(model.init_from)
    front = ["pipeline_tag: text2text-generation", "tags: [memgpt, memory]"]
    front += ["library_name: transformers"] if use == USE_TRANSFORMERS else []
    front += [f"license: {source.license}"] if source.license else []
    front += [f"base_model: {model.init_from}"] if base == model.init_from != "" else []
    start = f"from `{base}`" if base else "from random weights"
    start += f", commit {notes['init_from']}" if base == model.init_from and notes.get("init_from") else ""
    lines = [
        "---", *front, "---", "",
        f"# {source.run.name}", "",
        f"An encoder-decoder Transformer of {size:.1f} M parameters with an external memory, trained by memgpt {__version__} {start}.", "",
        "## Data", "",
        f"`{config.data.name}` (source `{config.data.source}`), seed {config.data.seed}. Inputs of at most {limits.input} tokens,"
        f" targets of {limits.target}, entries of {limits.entry}.", "",
        "## Training", "",
        f"{notes.get('step', '?')} steps of at most {config.trainer.batch_tokens:,} tokens on each of {config.trainer.devices} {config.trainer.accelerator},"
        f" {config.trainer.precision}; {config.optim.optimizer}, learning rate {config.optim.lr:g}, trained: {config.optim.trainable}; seed {config.seed}.",
        *([f"Validation loss {notes['val/loss']:.4f} nats per token."] if isinstance(notes.get("val/loss"), float) else []), "",
        "## Results", "", *_results(source), "",
        "## Memory", "",
        f"Reads at most {read.top_k} entries at a time by a learned score. Entries can be added, edited and forgotten without training.", "",
        "## Use", "",
        *use.splitlines(), "",
        "## Licence", "", source.license or "Not stated. Those of the data and of the base model apply.", "",
    ]  # fmt: skip
    return "\n".join(lines)


USE_TRANSFORMERS = """```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModelForSeq2SeqLM.from_pretrained(FOLDER)
said = model.generate(**tokenizer("…", return_tensors="pt"), max_new_tokens=64)
print(tokenizer.decode(said[0], skip_special_tokens=True))
```

With its memory: `memgpt train model.init_from=FOLDER`, or `memgpt_cli.checkpoint.load_pretrained(FOLDER)`."""

USE_RUN = """`memgpt chat --run FOLDER`, and so `generate`, `eval` and `export`. In Python:
`memgpt_cli.checkpoint.load_model(Path(FOLDER) / "model")` gives model, tokenizer and configuration."""


def _results(source: Source) -> list[str]:
    """The scores of `memgpt eval`, with the signatures that make them comparable."""
    tables: list[str] = []
    for file in sorted((source.run / "eval").glob("*-scores.json")):
        try:
            conditions: dict[str, list[dict[str, Any]]] = json.loads(file.read_bytes())
            tables += _table(file.name.removesuffix("-scores.json"), conditions)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration, RecursionError) as error:
            raise CheckpointError(f"{file} is damaged: memgpt eval writes it anew") from error
    return tables or ["None measured: `memgpt eval` writes them here."]


def _table(split: str, conditions: dict[str, list[dict[str, Any]]]) -> list[str]:
    tables = [f"On `{split}`, by what the memory held:", ""]
    names = [s["name"] for s in next(iter(conditions.values()))]
    tables += ["| | " + " | ".join(conditions) + " |", "|---" * (len(conditions) + 1) + "|"]
    found = {memory: {s["name"]: s for s in scores} for memory, scores in conditions.items()}
    for name in names:
        cells = [_cell(found[memory].get(name)) for memory in conditions]
        tables.append(f"| {name} | " + " | ".join(cells) + " |")
    signatures = dict.fromkeys(f"`{s['signature']}`" for s in next(iter(conditions.values())))
    return [*tables, "", "Signatures: " + ", ".join(signatures), ""]


def _cell(score: dict[str, Any] | None) -> str:
    if score is None:
        return "–"
    between = f" [{score['low']:.2f}, {score['high']:.2f}]" if score["low"] is not None else ""
    return f"{score['value']:.2f}{between} (n={score['n']})"
