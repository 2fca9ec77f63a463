"""Sources to datasets: read, clean, hold out, tokenise, limit, write; whole or not at all.

No split is ever in memory: what is read and clean is staged on disk, from where the tokenizer's sample, the splits that are
held out, and what is written are taken.
"""

import contextlib
import hashlib
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from memgpt_cli import hub
from memgpt_cli.config import DataConfig, bundled_folder
from memgpt_cli.data import corpus as of_corpus
from memgpt_cli.data.augment import Renamer, values_of
from memgpt_cli.data.candidates import CandidateWriter, Linker
from memgpt_cli.data.clean import Cleaner, Limiter
from memgpt_cli.data.dataset import (
    ARROW_FILE,
    DATA_SET,
    FORMAT,
    MANIFEST,
    REJECTS,
    SPLITS,
    EncodedEpisode,
    EpisodeWriter,
    encode,
    read_manifest,
)
from memgpt_cli.data.pool import lends
from memgpt_cli.data.sources import Where, files_of, find_source, make_options
from memgpt_cli.data.spans import own_words
from memgpt_cli.data.staging import ALL, Staged, texts_of
from memgpt_cli.data.statistics import Statistics
from memgpt_cli.data.statistics import of_corpus as statistics_of_corpus
from memgpt_cli.errors import ConfigError, DataError
from memgpt_cli.files import check_own, locked, new_folder, settle, writing
from memgpt_cli.schema import Episode
from memgpt_cli.store import Store
from memgpt_cli.tokenizer import UNK, Tokenizer, load_tokenizer, train_tokenizer

CODE_VERSION = 4  # raised when the same configuration would give other episodes

Report = Callable[[str, int], None]


@dataclass
class Result:
    folder: Path
    manifest: dict[str, Any]
    already_there: bool = False


@dataclass
class _Rejects:
    """What could not be read: it stops the run, or goes to a file and is counted."""

    path: Path
    stop: bool
    kept: Path  # where they are after a run that failed
    count: int = 0
    first: str = ""

    def __call__(self, error: DataError, record: Any) -> None:
        if self.stop:
            raise DataError(f"{error.reason} (data.on_error=quarantine leaves such records out)", error.path, error.line)
        row = {"file": str(error.path or ""), "line": error.line, "reason": error.reason, "record": record}
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(json.dumps(row, ensure_ascii=False, default=repr) + "\n")
        self.first = self.first or str(error)
        self.count += 1

    def words(self) -> str:
        """What to add to an error that nothing is left; empty where nothing was rejected."""
        return f": {self.count:,} records were rejected (see {self.kept}), the first: {self.first}" if self.count else ""


def source_files(config: DataConfig) -> dict[str, list[Path]]:
    """The files of each split; raises ConfigError for what is not there."""
    root = bundled_folder(config.source) if config.path == "bundled" else Path(config.path).expanduser()
    named = {}
    for split, names in config.files.items():
        if split not in SPLITS:
            raise ConfigError(f"data.files.{split}: a split is one of {', '.join(SPLITS)}")
        given = [names] if isinstance(names, str) else names
        if not isinstance(given, list | tuple) or not all(isinstance(name, str) and name for name in given):
            raise ConfigError(f"data.files.{split} is {names!r}, expected a file's name or a list of them")
        named[split] = files_of(root, list(given))
    if "train" not in named and not named:
        raise ConfigError(f"data.files names no file: set data.files.train (and valid, test) for data.source={config.source}")
    return named


def _hash_file(path: Path) -> str:
    """Of a file's bytes, or of all the files of a folder."""
    if not path.is_dir() and not path.is_file():
        raise ConfigError(f"{path} is no file")
    digest = hashlib.sha256()
    for part in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        with open(part, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _key(config: DataConfig, hashes: dict[str, str]) -> str:
    settings = {k: v for k, v in asdict(config).items() if k not in ("augment", "chat", "metrics")}
    if config.tokenizer.path:  # what counts is the tokenizer, whose fingerprint is among the hashes, not where it lies
        settings["tokenizer"] = {}
    corpus = settings.pop("corpus")
    if config.corpus.path:  # how many entries are brought into a batch concerns training alone
        settings["corpus"] = {name: corpus[name] for name in ("path", "namespace", "chunk")}
    settings["rename"] = (
        sorted(config.augment.rename.relations) + ["auto"] * config.augment.rename.auto
    )  # how often they are renamed concerns training alone
    text = json.dumps([settings, hashes, FORMAT, CODE_VERSION], sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _inputs(config: DataConfig) -> tuple[dict[str, list[Path]], dict[str, str], str]:
    """The files of each split, the hash of everything that is read, and the key of what will come of it."""
    source = find_source(config.source)
    options = make_options(source, config.options)
    files = source_files(config) if source.reads_files(options) else {}
    extra = [path for paths in files.values() or [[]] for path in source.extra_files(options, paths)]
    read = [*(path for paths in files.values() for path in paths), *(path for path in extra if path.exists())]
    corpus = config.corpus
    if corpus.path and of_corpus.is_store(corpus.path):
        revisions = {corpus.path: of_corpus.digest(corpus)}
    else:
        revisions = {}
        read += of_corpus.corpus_files(corpus, read) if corpus.path and not corpus.own else []
    hashes = {str(path): _hash_file(path) for path in dict.fromkeys(read)} | revisions
    if config.tokenizer.path:
        hashes["tokenizer"] = given_tokenizer(config).fingerprint
    return files, hashes, _key(config, hashes)


def given_tokenizer(config: DataConfig) -> Tokenizer:
    """The tokenizer that `data.tokenizer.path` names, with the tokens to add; raises CheckpointError, ConfigError."""
    from memgpt_cli.tokenizer.pretrained import add_tokens

    path = Path(config.tokenizer.path).expanduser()
    tokenizer = load_tokenizer(path if path.is_file() else hub.fetch(str(path), config.tokenizer.revision, weights=False))
    add_tokens(tokenizer, config.tokenizer.add)
    return tokenizer


def is_current(config: DataConfig, root: Path) -> bool:
    """Whether `root/<name>` is what these settings and these files give."""
    folder = root / config.name
    return DATA_SET.marks(folder) and bool(read_manifest(folder)["key"] == _inputs(config)[2])


def preprocess(config: DataConfig, root: Path, report: Report = lambda stage, n: None, force: bool = False) -> Result:
    """Builds `root/<name>`, or says that it is already there; a killed run leaves nothing that looks whole.

    Raises DataError for a bad record (unless `on_error=quarantine`), ConfigError for a bad setting, and UsageError where
    the folder is not a data set of ours: nothing in it is touched then.
    """
    files, hashes, key = _inputs(config)
    folder = root / config.name
    advice = "name the data set with data.name=NAME"
    if not force and DATA_SET.marks(folder) and (manifest := read_manifest(folder))["key"] == key:
        return Result(folder, manifest, already_there=True)
    check_own(folder, DATA_SET, advice)
    with locked(folder, lambda process: report(f"waiting for process {process}, which preprocesses {folder.name}", 0)):
        settle(folder)
        if not force and DATA_SET.marks(folder) and (manifest := read_manifest(folder))["key"] == key:
            return Result(folder, manifest, already_there=True)
        with new_folder(folder, DATA_SET, advice) as partial:
            try:
                manifest = _build(config, files, partial, report)
            except BaseException:
                _keep_rejects(partial / REJECTS, root / f"{config.name}.{REJECTS}")
                raise
            manifest |= {"key": key, "files": hashes}
            (partial / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1), encoding="utf-8")
    return Result(folder, manifest)


def _keep_rejects(rejects: Path, beside: Path) -> None:
    """What was rejected before a run failed is not lost with the rest of it."""
    if rejects.is_file():
        with writing(beside, binary=True) as file:
            file.write(rejects.read_bytes())


def _build(config: DataConfig, files: dict[str, list[Path]], folder: Path, report: Report) -> dict[str, Any]:
    rejects = _Rejects(folder / REJECTS, config.on_error == "stop", folder.parent / f"{config.name}.{REJECTS}")
    changes: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory(prefix="staged-", dir=folder) as staging:
        staged: dict[str, Staged] = {}
        for split in _splits(config, files):
            counts = changes.setdefault(split, Counter())
            rejected, found = rejects.count, _read(config, files, split, counts, rejects)
            staged[split] = Staged.stage(Path(staging) / split, _progress(found, report, f"reading {split}"), config.seed)
            counts["records rejected"] += rejects.count - rejected
            if not len(staged[split]):
                names = ", ".join(map(str, files.get(split, ()))) or "its source"
                raise DataError(f"the {split} split holds no episode, nothing could be read from {names}{rejects.words()}")
        _hold_out(config, staged, changes, rejects)
        train = staged.get("train") or next(iter(staged.values()))
        rename = config.augment.rename
        values = values_of(iter(train), rename.relations)
        own = own_words(iter(train)) if rename.auto else []
        renamer = Renamer(replace(rename, probability=0.5), values, own)
        into = folder / of_corpus.FOLDER
        wanted = any(map(lends, train)) if config.corpus.own else bool(config.corpus.path)
        lent = (entry for episode in train if lends(episode) for entry in episode.entries)
        filled = of_corpus.fill(config.corpus, into, lent, chain(*files.values()), rejects, report) if wanted else None
        store, called, counted = filled or (None, of_corpus.Names(), of_corpus.Counted())
        with store or contextlib.nullcontext():
            tokenizer = given_tokenizer(config) if config.tokenizer.path else _train(config, train, renamer, store, report)
            tokenizer.save(folder)
            corpus = None
            if store:
                of_corpus.write_rows(store, counted, config, tokenizer, into, report)
                corpus = _Linking(store, called, counted, into)
            statistics = {}
            for split, episodes in staged.items():
                read = _progress(iter(episodes), report, f"writing {split}")
                statistics[split] = _write(config, read, tokenizer, folder / split, changes[split], corpus)
    return {
        "format": FORMAT,
        "name": config.name,
        "source": config.source,
        "config": asdict(config),
        "tokenizer": {"fingerprint": tokenizer.fingerprint, "pieces": len(tokenizer)},
        "values": values,
        "own_words": own,
        "statistics": statistics,
        **({"corpus": statistics_of_corpus(corpus.counted)} if corpus else {}),
    }


class _Linking:
    """The corpus as it is written, and what finds in it what belongs to an example."""

    def __init__(self, store: Store, names: of_corpus.Names, counted: of_corpus.Counted, folder: Path) -> None:
        self.store, self.names, self.counted, self.corpus = store, names, counted, of_corpus.Corpus(folder)

    def writer(self, folder: Path, counts: Counter[str]) -> CandidateWriter:
        return CandidateWriter(folder, Linker(self.store, self.corpus, self.names, counts))


def _write(
    config: DataConfig,
    episodes: Iterable[Episode],
    tokenizer: Tokenizer,
    folder: Path,
    changes: Counter[str],
    corpus: _Linking | None,
) -> dict[str, Any]:
    """One split, within its limits; returns its statistics."""
    limiter, writer = Limiter(config.limits, tokenizer, changes), EpisodeWriter(folder)
    counts = Statistics(config.distractors, corpus.counted if corpus and not config.corpus.own else None)
    candidates = corpus.writer(folder, changes) if corpus and folder.name != "test" else None  # which is only answered
    for episode in episodes:
        if limited := limiter(episode):
            row = encode(limited, tokenizer)
            _count_losses(row, tokenizer, changes)
            counts.add(row)
            writer.write(row)
            if candidates is not None:
                candidates.write(limited)
    writer.close()
    if candidates is not None:
        candidates.close()
    if not writer.count:
        raise DataError(f"no example of the {folder.name} split is within data.limits: raise them, or truncate what is longer")
    changed = {k: v for k, v in sorted(changes.items()) if v}
    return counts.summary() | {"bytes": (folder / ARROW_FILE).stat().st_size, "changes": changed}


def _count_losses(row: EncodedEpisode, tokenizer: Tokenizer, counts: Counter[str]) -> None:
    """What a pretrained tokenizer does not give back: characters it does not know, and white space it joins."""
    if tokenizer.lossless:
        return
    for what in ("entry", "input", "target"):
        texts = row.entries if what == "entry" else getattr(row, f"{what}s")
        for text, ids in zip(texts, getattr(row, f"{what}_ids"), strict=True):
            if UNK in ids:
                counts[f"{what} texts with characters the tokenizer does not know"] += 1
            elif tokenizer.decode(ids) != text:
                counts[f"{what} texts whose white space or characters the tokenizer normalises"] += 1


def _splits(config: DataConfig, files: dict[str, list[Path]]) -> list[str]:
    """The splits to read: those with files, or all that a source without files makes."""
    held_out = config.hold_out if not files else {}
    return [s for s in SPLITS if s in files] if files else [s for s in SPLITS if not held_out.get(s)]


def _progress(items: Iterable[Episode], report: Report, stage: str) -> Iterator[Episode]:
    n = 0
    for n, item in enumerate(items, 1):
        if n % 64 == 0:
            report(stage, n)
        yield item
    report(stage, n)


def _read(
    config: DataConfig, files: dict[str, list[Path]], split: str, counts: Counter[str], rejects: _Rejects
) -> Iterator[Episode]:
    source = find_source(config.source)
    options = make_options(source, config.options)
    clean = Cleaner(config.clean, counts)
    where = Where(split, config.seed, rejects)
    groups: list[Any] = [files[split]] if source.pairs_files else list(files[split]) if files else [None]
    for group in groups:
        try:
            for episode in source.read(group, options, where):
                sound = _sound(episode, rejects)
                if sound and (cleaned := clean(sound)):
                    yield cleaned
        except DataError as error:  # of the file as a whole, or of all that follows in it
            rejects(error.at(group), None)
        except RecursionError:
            rejects(DataError("nested too deeply", group), None)


def _sound(episode: Episode, rejects: "_Rejects") -> Episode | None:
    """The episode without the examples that cannot be used; each of those is rejected by name."""
    bad: set[int] = set()
    for example, reason in episode.problems():
        if example is None:
            rejects(DataError(reason, episode.id), None)
            return None
        if example not in bad:
            rejects(DataError(reason, episode.id), asdict(episode.examples[example]))
        bad.add(example)
    kept = tuple(x for n, x in enumerate(episode.examples) if n not in bad)
    return replace(episode, examples=kept) if kept else None


def _hold_out(config: DataConfig, staged: dict[str, Staged], changes: dict[str, Counter[str]], rejects: _Rejects) -> None:
    """Takes a share of the training documents for splits that have no file of their own: those of the lowest hashes.

    So what is held out depends on a document's name and the seed alone, and adding documents moves few.
    """
    shares = {split: share for split, share in config.hold_out.items() if share}
    if not shares:
        return
    for split in (each for each in shares if each in staged):
        raise ConfigError(f"data.files names a file for {split}, and data.hold_out a share: give data.hold_out.{split}=0")
    numbers = all(isinstance(share, int | float) and 0 < share < 1 for share in shares.values())
    if not numbers or sum(shares.values()) >= 1 or any(split not in SPLITS[1:] for split in shares):
        raise ConfigError(f"data.hold_out is {config.hold_out}, expected shares below 1 for valid or test")
    train = staged["train"]
    places = np.unique(train.places)
    if len(places) <= len(shares):
        raise ConfigError(
            f"data.hold_out needs more than {len(shares)} documents, found {len(places)}: name files for valid and test{rejects.words()}"
        )
    first, low = 0, 0
    for left, (split, share) in enumerate(shares.items(), 1):
        most = len(places) - 1 - len(shares) + left  # one document at least for each split to come, and for training
        first = min(first + max(1, round(share * len(places))), most)
        high = int(places[first])
        staged[split] = train.within(low, high)
        changes[split] = Counter({"episodes held out of train": len(staged[split])})
        low = high
    staged["train"] = train.within(low, ALL[1])


def _train(config: DataConfig, train: Staged, rename: Renamer, corpus: Store | None, report: Report) -> Tokenizer:
    """A tokenizer from a sample of the training split, whole episodes in random order up to `sample_mb`, and of the corpus."""
    report("training tokenizer", 0)

    def texts() -> Iterator[str]:
        budget = config.tokenizer.sample_mb << 20
        rng = random.Random(config.seed)
        for staged in train.sample(config.seed, budget):
            episode = rename(staged, rng)  # made-up names shall be cut into syllables, not letters
            for text in texts_of(episode):
                budget -= len(text)
                yield text
            if budget <= 0:
                break
        if corpus is not None:
            yield from of_corpus.sample(corpus, config.seed, config.tokenizer.sample_mb << 20)

    asked = config.tokenizer
    return train_tokenizer(texts(), asked.vocab_size, config.seed, asked.coverage, asked.characters)
