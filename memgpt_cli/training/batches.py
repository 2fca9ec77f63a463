"""What a training reads: the stream of its batches, and the fixed batches of its validation."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from torch.utils.data import DataLoader, Dataset

from memgpt_cli.config import Config
from memgpt_cli.data.augment import Renamer
from memgpt_cli.data.candidates import Candidates
from memgpt_cli.data.collate import collate
from memgpt_cli.data.corpus import open_corpus
from memgpt_cli.data.dataset import EncodedEpisode, EpisodeDataset, read_manifest
from memgpt_cli.data.plan import Part, evaluation_plan
from memgpt_cli.data.pool import read_together
from memgpt_cli.data.stream import TrainStream, nothing_near, rename_row
from memgpt_cli.model import Batch
from memgpt_cli.tokenizer import load_tokenizer
from memgpt_cli.training.nearest import Nearest

Renaming = Callable[[EncodedEpisode, int], EncodedEpisode]


class _ValidationBatches(Dataset[Batch]):
    """A fixed set of validation batches; with `rename` their episodes are changed by it."""

    def __init__(
        self,
        data: EpisodeDataset,
        batches: list[list[Part]],
        distractors: int,
        candidates: Candidates | None = None,
        rename: Renaming | None = None,
    ) -> None:
        self.data, self.batches, self.distractors, self.candidates = data, batches, distractors, candidates
        self.rename = rename

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        parts = self.batches[index]
        rows = [self.data.row(p.episode) for p in parts]
        if self.rename is not None:
            rows = [self.rename(row, p.episode) for row, p in zip(rows, parts, strict=True)]
        return collate(*read_together(rows, parts, random.Random(index), self.distractors, self.candidates))


class EpisodeData(L.LightningDataModule):
    """Batches come ready-made, so the loaders batch nothing; each process takes its own.

    A checkpoint keeps how many batches all processes together have taken: a run that goes on with another number of
    devices goes on at the same place of its data.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        super().__init__()
        self.folder, self.config = folder, config
        self.tokenizer = load_tokenizer(folder)
        self.manifest = read_manifest(folder)
        self.corpus = open_corpus(folder)
        self.nearest = (
            Nearest(self.corpus, config.trainer.refresh_every, config.trainer.refresh_beside)
            if self.corpus and config.data.corpus.vectors and self._renamer() is None
            else None
        )
        self._resumed: dict[str, int] = {}

    def candidates(self, split: str) -> Candidates | None:
        """What the examples of a split bring from the corpus, where there is one."""
        if self.corpus is None or self._renamer() is not None:  # names of a corpus of own entries would stay as they are
            return None
        return Candidates(self.corpus, self.folder / split, self.config.data.corpus, self._target)

    def _target(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)[: self.config.data.limits.target]

    def state_dict(self) -> dict[str, int]:
        trainer = self.trainer
        assert trainer is not None
        return {"step": trainer.global_step, "batches": self._taken(trainer.global_step, trainer.world_size)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resumed = {name: int(state[name]) for name in ("step", "batches")}

    def _taken(self, step: int, world: int) -> int:
        """Batches that were taken before a step."""
        since = step - self._resumed.get("step", 0)
        return self._resumed.get("batches", 0) + since * world

    def _loader(self, dataset: Any) -> DataLoader[Batch]:
        return DataLoader(dataset, batch_size=None, num_workers=0)

    def _renamer(self, probability: float | None = None) -> Renamer | None:
        """What renames episodes, as configured or with another probability; None where nothing is renamed."""
        rename = self.config.data.augment.rename
        if not (rename.relations or rename.auto) or not rename.probability:
            return None
        rename = rename if probability is None else replace(rename, probability=probability)
        return Renamer(rename, self.manifest["values"], self.manifest.get("own_words", ()))

    def stream(self, start: int = 0, rank: int = 0, world: int = 1) -> TrainStream:
        renamer = self._renamer()
        data = EpisodeDataset(self.folder / "train")
        config = self.config
        stream = TrainStream(
            data, self.tokenizer, config.trainer.batch_tokens, config.seed, renamer, start, rank, world, config.data.distractors,
            self.candidates("train"), self.nearest or nothing_near,
        )  # fmt: skip
        if self.nearest is not None:
            self.nearest.stream = stream
        return stream

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None
        rank, world = trainer.global_rank, trainer.world_size
        return self._loader(self.stream(self._taken(trainer.global_step, world) // world, rank, world))

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        """The validation set, and where training renames, once more with names that nobody has seen."""
        trainer, settings = self.trainer, self.config.trainer
        assert trainer is not None
        split = self.folder / ("valid" if (self.folder / "valid").is_dir() else "train")
        data, world, brought = EpisodeDataset(split), trainer.world_size, self.candidates(split.name)
        batches = evaluation_plan(
            data, settings.batch_tokens, settings.val_batches, world=world, brings=brought.cost if brought else 0
        )[trainer.global_rank :: world]
        borrowed = self.config.data.distractors
        loaders, renamer = [self._loader(_ValidationBatches(data, batches, borrowed, brought))], self._renamer(1.0)
        if renamer is not None:

            def rename(row: EncodedEpisode, number: int) -> EncodedEpisode:
                return rename_row(row, renamer, random.Random(f"{self.config.seed}/valid/{number}"), self.tokenizer)

            loaders.append(self._loader(_ValidationBatches(data, batches, borrowed, brought, rename)))
        return loaders
