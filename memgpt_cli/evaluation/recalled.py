"""A split with its memory replaced by what a store recalls for each input."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from memgpt_cli.data.dataset import EpisodeDataset, EpisodeWriter, encode_row
from memgpt_cli.evaluation.evaluate import Condition
from memgpt_cli.generation.recall import Recall
from memgpt_cli.schema import Episode, Example
from memgpt_cli.tokenizer import Tokenizer


def write_recalled(
    split: Path,
    folder: Path,
    recall: Recall,
    tokenizer: Tokenizer,
    most: int = 0,
    report: Callable[[str, int], None] = lambda s, n: None,
) -> Path:
    """Writes every example of `split` (the first `most` where given) as an episode of its own, over recalled entries; returns `folder`.

    Evidence stays evidence where an entry of the same text is recalled.
    """
    writer, count = EpisodeWriter(folder), 0
    for episode in EpisodeDataset(split):
        examples = episode.examples if not most else episode.examples[: most - count]
        for n, (example, entries) in enumerate(zip(examples, recall.entries([x.input for x in examples]), strict=True)):
            wanted = {episode.entries[e].text for e in example.evidence}
            evidence = tuple(i for i, e in enumerate(entries) if e.text in wanted)
            asked = Example(example.input, example.target, len(entries), example.references, evidence, example.task)
            writer.write(encode_row(Episode(f"{episode.id}/{n}", tuple(entries), (asked,), episode.meta), tokenizer))
        count += len(examples)
        report("recalling", count)
        if most and count >= most:
            break
    writer.close()
    return folder


def named_by_store(conditions: list[Condition]) -> list[Condition]:
    """What the model's scores chose among recalled entries is called `store`, not `learned`."""
    return [replace(c, memory="store") if c.memory == "learned" else c for c in conditions]
