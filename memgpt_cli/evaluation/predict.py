"""What a model writes for every example of a split, and what was read for it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memgpt_cli.config import EvalConfig, GenerateConfig
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import EncodedEpisode, EpisodeDataset
from memgpt_cli.data.plan import Part, evaluation_plan
from memgpt_cli.data.pool import read_together
from memgpt_cli.evaluation.memories import oracle, other_episode, ranks, with_memory
from memgpt_cli.inference.decode import Generated, generate
from memgpt_cli.model import Batch, MemoryTransformer
from memgpt_cli.tokenizer import Tokenizer

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Likelihood:
    """How likely the target was."""

    nll: float  # nats
    tokens: int  # EOS included
    bytes: int


@dataclass(frozen=True)
class Prediction:
    """What was written for one example."""

    episode: str
    example: int
    input: str
    prediction: str
    references: tuple[str, ...]
    task: str = ""
    sees: int = 0  # entries
    used: bool | None = None  # whether evidence was what it attended to most; None where nothing was written or read
    age: int | None = None  # how many entries ago the newest evidence came, 1 being the last; None without evidence
    likelihood: Likelihood | None = None  # where it was asked for

    def as_dict(self) -> dict[str, object]:
        own: dict[str, object] = {
            "episode": self.episode,
            "example": self.example,
            "task": self.task,
            "sees": self.sees,
            "age": self.age,
            "used": self.used,
        }
        own |= {"input": self.input, "prediction": self.prediction}
        return {**own, "references": [*self.references], **(vars(self.likelihood) if self.likelihood else {})}


@dataclass
class Predicted:
    """A split under one memory."""

    predictions: list[Prediction] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)  # of the best evidence, where there is any and memory is as learned
    null: list[float] = field(default_factory=list)  # attention on the null slot in percent, of examples that see entries


@dataclass(frozen=True)
class Predictor:
    """A model, and what is asked of it.

    write: whether answers are generated; likelihoods: whether targets are scored.
    """

    model: MemoryTransformer
    tokenizer: Tokenizer
    config: EvalConfig
    decoding: GenerateConfig
    write: bool = True
    likelihoods: bool = False
    postprocess: Callable[[str], str] = str
    distractors: int = 0  # entries of others beside a question's own

    def __call__(self, data: EpisodeDataset, memory: str, report: Report = lambda stage, n, total: None) -> Predicted:
        """Every example of the split, or of as many as the configuration asks for, under this memory."""
        found = Predicted()
        most = [n for n in (self.config.max_examples, 0 if memory == "learned" else self.config.ablation_examples) if n]
        batches = evaluation_plan(data, self.config.batch_tokens, examples=min(most, default=0))
        for done, parts in enumerate(batches, 1):
            self._batch(data, parts, memory, found)
            report(memory, done, len(batches))
        found.predictions.sort(key=lambda p: (p.episode, p.example))
        return found

    def _batch(self, data: EpisodeDataset, parts: list[Part], memory: str, found: Predicted) -> None:
        rows = [data.row(p.episode) for p in parts]
        others = [other_episode(data, p.episode) for p in parts] if memory == "shuffled" else []
        spans = [(p.first, p.last) for p in parts]
        if self.distractors and memory in ("learned", "oracle"):
            rows, spans = read_together(rows, parts, random.Random(parts[0].episode), self.distractors)
        batch = collate(with_memory(memory, rows, others), spans)
        device = self.model.null.device
        only = oracle(batch).to(device) if memory == "oracle" else None
        on_device = batch.to(device)
        likelihoods = self._likelihoods(on_device, only) if self.likelihoods else None
        made = generate(self.model, on_device, self.decoding, only=only) if self.write else None
        scores = made.scores if made else self._scores(on_device, only)
        if memory == "learned":
            found.ranks += ranks(scores.cpu(), batch.sees, batch.evidence)
        for g, pairs in enumerate(batch.rows):
            for e, (_, example) in enumerate(pairs):
                if made and batch.sees[g, e] > 0:
                    found.null.append(100 * made.best[g][e][0].null)
                found.predictions.append(self._prediction(rows[g], example, made, likelihoods, (g, e)))

    def _prediction(
        self, row: EncodedEpisode, example: int, made: Generated | None, likelihoods: Tensor | None, place: tuple[int, int]
    ) -> Prediction:
        g, e = place
        text = self.postprocess(self.tokenizer.decode(made.ids[g][e])) if made else ""
        target = row.targets[example]
        known = None
        if likelihoods is not None:
            nll, tokens = likelihoods[:, g, e].tolist()
            known = Likelihood(nll, int(tokens), len(target.encode()))
        references = tuple(row.references[example]) or (target,)
        sees, evidence = row.sees[example], row.evidence[example]
        age = sees - max(evidence) if evidence else None
        read = made.best[g][e][0].entries[:sees] if made else None
        return Prediction(
            *row.name(example), row.inputs[example], text, references, row.tasks[example], sees,
            None if read is None or not len(read) else int(read.argmax()) in evidence, age, known,
        )  # fmt: skip

    @torch.inference_mode()
    def _likelihoods(self, batch: Batch, only: Tensor | None) -> Tensor:
        """[2, G, E]: negative log-likelihood of each target in nats, and its tokens."""
        scored = self.model.target_logprobs(batch, self.model.read(batch, only=only))
        examples = batch.sees.shape[1]
        parts = (-scored.logp, torch.ones_like(scored.logp))
        return torch.stack([scored.by_example(values, examples).cpu() for values in parts])

    @torch.inference_mode()
    def _scores(self, batch: Batch, only: Tensor | None) -> Tensor:
        return self.model.read(batch, only=only).choice.scores
