"""A split with its memory replaced by what a store recalls for each input."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from memgpt_cli.data.dataset import EpisodeDataset, EpisodeWriter
from memgpt_cli.errors import UsageError
from memgpt_cli.evaluation.evaluate import Condition
from memgpt_cli.inference.session import Session


def write_recalled(
    split: Path, folder: Path, session: Session, most: int = 0, report: Callable[[str, int], None] = lambda s, n: None
) -> Path:
    """Writes every example of `split` (the first `most` where given) as an episode of its own, over recalled entries; returns `folder`.

    Evidence stays evidence where an entry of the same text is recalled.
    """
    if session.recall is None:
        raise UsageError("no store is read: name one with --store")
    writer, count = EpisodeWriter(folder), 0
    for episode in EpisodeDataset(split):
        examples = episode.examples if not most else episode.examples[: most - count]
        for n, (example, found) in enumerate(zip(examples, session.recall([x.input for x in examples]), strict=True)):
            made = session.prompt(example.input, found)
            wanted = {episode.entries[e].text for e in example.evidence}
            evidence = [i for i, entry in enumerate(made.entries) if entry.text in wanted]
            target = session.tokenizer.encode(example.target)
            references = [example.references]
            writer.write(
                replace(
                    made.episode, id=f"{episode.id}/{n}", evidence=[evidence], targets=[example.target], target_ids=[target],
                    references=references, tasks=[example.task],
                )
            )  # fmt: skip
        count += len(examples)
        report("recalling", count)
        if most and count >= most:
            break
    writer.close()
    return folder


def named_by_store(conditions: list[Condition]) -> list[Condition]:
    """What the model's scores chose among recalled entries is called `store`, not `learned`."""
    return [replace(c, memory="store") if c.memory == "learned" else c for c in conditions]
