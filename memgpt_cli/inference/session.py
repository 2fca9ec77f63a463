"""A model that answers, and the store it reads: opened once, by everything that answers.

with Session.open("handbook-tiny", store="kb.sqlite") as session:
    print(session.ask("where is the kettle of room K17 ?").text)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from memgpt_cli import hub
from memgpt_cli.checkpoint import find_run, load_model, load_pretrained
from memgpt_cli.checkpoint.runs import RUNS_ROOT, SHARE, fingerprint, fingerprint_of
from memgpt_cli.checkpoint.untrusted import describe_run
from memgpt_cli.config import Config, compose, override, user_name
from memgpt_cli.data.collate import collate
from memgpt_cli.data.dataset import Seen
from memgpt_cli.data.guess import quoted
from memgpt_cli.data.statistics import RECALLED
from memgpt_cli.errors import CheckpointError, UsageError
from memgpt_cli.inference.decode import Generated, Hypothesis, OnToken, generate
from memgpt_cli.inference.encoder import Encoder, Report, add_vectors
from memgpt_cli.inference.prompt import Prompt, Prompter
from memgpt_cli.inference.recall import Recall
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import Entry, entry_from
from memgpt_cli.store import Receipt, Store, Stored, Written, open_store
from memgpt_cli.store.types import now
from memgpt_cli.tokenizer import Tokenizer, load_tokenizer
from memgpt_cli.training.hardware import prepare


class Read(NamedTuple):
    """An entry that an answer read."""

    text: str
    kind: str
    weight: float  # the mean attention on it
    score: float  # of retrieval, among those that were read
    id: int | None = None  # in the store
    source: str = ""  # the file it came from
    line: int | None = None  # of it
    page: int | None = None

    @property
    def place(self) -> str:
        """Where it stands: file and line, or page."""
        at = f":{self.line}" if self.line is not None else f", page {self.page}" if self.page is not None else ""
        return f"{self.source}{at}" if self.source else ""


def _read(entry: Entry, stored: Stored | None, weight: float, score: float) -> Read:
    if stored is None:
        return Read(entry.text, entry.kind, weight, score)
    origin = stored.provenance[0] if stored.provenance else {}
    line, page = (value if isinstance(value := origin.get(name), int) else None for name in ("line", "page"))
    return Read(entry.text, entry.kind, weight, score, stored.id, str(origin.get("source", "")), line, page)


@dataclass
class Reply:
    """An answer, and how it came about."""

    text: str
    read: list[Read] = field(default_factory=list)  # the most attended first
    null: float = 0.0  # attention on the null slot
    logp: float = 0.0  # log-probability of the answer, its end included
    complete: bool = True  # it ended by itself
    notes: list[str] = field(default_factory=list)  # what was cut, left out or could not be kept
    steps: list[str] = field(default_factory=list)  # what was said on the way (look-ups)
    others: list["Reply"] = field(default_factory=list)  # the next best answers of a beam search
    recalled: list[Stored] = field(default_factory=list)


class Question(NamedTuple):
    text: str
    memory: Sequence[Entry] = ()  # given with it, besides what is recalled


class Session:
    """A model and its tokenizer on a device, by the configuration of its run, and a store where one is attached."""

    def __init__(
        self,
        name: str,
        folder: Path | None,
        model: MemoryTransformer,
        tokenizer: Tokenizer,
        config: Config,
        seen: Seen,
        mark: str,
    ) -> None:
        self.name, self.folder, self.tokenizer, self.config, self.seen, self.fingerprint = (
            name,
            folder,
            tokenizer,
            config,
            seen,
            mark,
        )
        self.model = prepare(model, config.trainer)
        self.prompt = Prompter(tokenizer, config.data, seen)
        self.encoder = Encoder(model, tokenizer, config.inference.cache_mb << 20, self.prompt.clean)
        self.ignored: tuple[str, ...] = ()  # settings of the run's own that are not followed
        self.share = 0.5  # of vectors in what is recalled
        self.recall: Recall | None = None
        self._store: Store | None = None
        self.namespace = ""

    @classmethod
    def open(
        cls,
        run: str = "",
        *,
        store: str | None = None,
        namespace: str = "",
        key_env: str = "",
        overrides: Sequence[str] = (),
        config_dir: Path | None = None,
        create: bool = False,
    ) -> "Session":
        """A run by its name or folder (the newest where empty), or pretrained weights by their folder or hub id.

        Args:
            store: a path or URL, empty for the user's own; None reads no store unless the settings name one.
            namespace, key_env: whose memory, and the environment variable of an encrypted store's key.
            overrides: settings as the command line takes them.
            create: make the store where there is none.

        Raises:
            CheckpointError, ConfigError, StoreError, UsageError: with what was found and what to type.
        """
        session = cls._open(run, list(overrides), config_dir)
        own = session.config.store  # of the settings given here: a run's own places are not followed
        if store is not None or own.url or own.namespace or own.key_env:
            session.attach(store or own.url, namespace or own.namespace, key_env or own.key_env, create)
        return session

    @classmethod
    def _open(cls, run: str, overrides: list[str], config_dir: Path | None) -> "Session":
        try:
            folder = find_run(run, RUNS_ROOT)
        except CheckpointError:
            on_the_hub = (
                hub.is_hub_id(run) and not Path(run).parent.is_dir()
            )  # a folder of ours misspelt is not looked for there
            if not run or not ((Path(run) / "config.json").is_file() or on_the_hub):
                raise
            return cls._pretrained(run, overrides, config_dir)
        model, tokenizer, trained = load_model(folder / "model")
        described = describe_run(folder / "model")
        config, seen = override(trained, overrides, config_dir), Seen.of(described.notes.get("seen"))
        session = cls(folder.name, folder, model, tokenizer, config, seen, fingerprint(folder / "model"))
        share = described.notes.get(SHARE)
        session.share = float(share) if isinstance(share, int | float) and 0 <= share <= 1 else session.share
        given = {o.lstrip("+").partition("=")[0] for o in overrides}
        session.ignored = tuple(name for name in described.ignored if name not in given)
        return session

    @classmethod
    def _pretrained(cls, name: str, overrides: list[str], config_dir: Path | None) -> "Session":
        config = compose(["data=records", f"model.init_from={quoted(name)}", *overrides], config_dir)
        tokenizer = load_tokenizer(hub.fetch(name, config.model.revision, weights=False))
        model = load_pretrained(name, replace(config.model, vocab_size=len(tokenizer))).eval()
        return cls(name, None, model, tokenizer, config, Seen(), fingerprint_of(model.state_dict()))

    # the store

    def attach(self, url: str, namespace: str = "", key_env: str = "", create: bool = False) -> None:
        """Opens the store that is read from now on; the one before is closed, and its states are dropped."""
        self.close()
        self.encoder.states.keep({})
        self._store = open_store(url, self.fingerprint, key_env, create)
        self.namespace = namespace or user_name()
        by_vector = self.seen.most_entries > 1
        self.recall = Recall(self._store, self.namespace, self.encoder, self.recalled, by_vector, self.share)

    @property
    def store(self) -> Store:
        """Raises UsageError where none is attached."""
        if self._store is None:
            raise UsageError("no store is read: name one with --store (in Python: store=…)")
        return self._store

    @property
    def recalled(self) -> int:
        """How many entries are recalled for an input: as configured, else as many as the examples of training saw."""
        asked = self.config.store.recall
        return asked if asked >= 0 else max(1, min(RECALLED, self.seen.entries))

    @property
    def files(self) -> list[Path]:
        """What is read here, and so never written over."""
        return [*([self.folder] if self.folder else []), *(self._store.files() if self._store else [])]

    def add_missing_vectors(self, report: Report = lambda stage, n: None) -> int:
        """Vectors for entries that have none of this model: added by another one, or without any."""
        return add_vectors(self.store, self.namespace, self.encoder, report)

    def remember(self, text: str, kind: str = "note") -> Written:
        """Keeps an entry; `head | relation | tail` is a fact. Returns its id, and what had to make room for it."""
        items = self.encoder.items([entry_from(text, kind)], {"who": user_name(), "when": now()})
        return self.store.put(self.namespace, items)

    def forget(self, ids: int | Sequence[int]) -> Receipt:
        """Erases entries from every file of the store, and their states from RAM."""
        gone = [ids] if isinstance(ids, int) else list(ids)
        receipt = self.store.forget(self.namespace, gone)
        self.encoder.states.keep({})
        return receipt

    # answers

    def ask(self, text: str, memory: Sequence[str | Entry] = (), on_token: OnToken | None = None) -> Reply:
        """One answer, from what is recalled of the store and from `memory`; texts there are of the kind the run knows best."""
        kind = self.seen.kinds[0] if self.seen.kinds else "note"
        given = [m if isinstance(m, Entry) else entry_from(m, kind) for m in memory]
        return self.answer([Question(text, given)], on_token)[0]

    def answer(self, questions: Sequence[Question], on_token: OnToken | None = None) -> list[Reply]:
        """Answers, in order: all are recalled for and decoded at once."""
        if not questions:
            return []
        texts = [self.prompt.cut_input(question.text)[0] for question in questions]  # what is read is what is looked for
        recalled = self.recall(texts) if self.recall else [[] for _ in texts]
        asked = zip(questions, recalled, strict=True)
        prompts = [self.prompt(q.text, [*found, *q.memory], newest=bool(found)) for q, found in asked]
        replies = self.decode(prompts, on_token)
        for reply, found in zip(replies, recalled, strict=True):
            reply.recalled = found
            self._warn_of_long(reply, found)
        return replies

    def _warn_of_long(self, reply: Reply, recalled: Sequence[Stored]) -> None:
        most = self.seen.entry_tokens
        if most and any(len(self.tokenizer.encode(e.text)) > max(most + 8, 1.25 * most) for e in recalled):
            cut = f"memgpt memory import --run {self.name} cuts documents so"
            reply.notes.append(f"entries longer than the {most} tokens that this model has learned from were recalled: {cut}")

    def decode(self, prompts: Sequence[Prompt], on_token: OnToken | None = None) -> list[Reply]:
        """Answers to prompts; entries of the store are encoded once, however often they are read."""
        batch = collate([prompt.episode for prompt in prompts]).to(self.encoder.device)
        names = {ids: name for prompt in prompts for ids, name in prompt.names.items()}
        encoded = self.encoder.encode(batch, names)
        made = generate(self.model, batch, self.config.generate, on_token=on_token, encoded=encoded)
        return [self._reply(prompt, made, n) for n, prompt in enumerate(prompts)]

    def _reply(self, prompt: Prompt, made: Generated, n: int) -> Reply:
        best, *others = made.best[n][0]
        reply = self._of(best)
        entries = zip(prompt.entries, prompt.stored, best.entries.tolist(), made.scores[n, 0].tolist(), strict=False)
        read = [_read(e, stored, weight, score) for e, stored, weight, score in entries]
        reply.read, reply.notes = sorted(read, key=lambda r: -r.weight), list(prompt.notes)
        reply.others = [self._of(other) for other in others]
        if not best.ended:
            reply.notes.append(f"the answer did not end within generate.max_tokens={self.config.generate.max_tokens}")
        return reply

    def _of(self, made: Hypothesis) -> Reply:
        text = self.tokenizer.decode(made.ids).replace("\0", "")
        return Reply(text, null=made.null, logp=made.logp, complete=made.ended)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store, self.recall = None, None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(run: str = "", store: str | None = None, namespace: str = "", overrides: Sequence[str] = (), **more: Any) -> Session:
    """`Session.open`, as `memgpt_cli.load`; entries of the store that have no vector of this model get one."""
    session = Session.open(run, store=store, namespace=namespace, overrides=overrides, create=store is not None, **more)
    if session.recall is not None:
        session.add_missing_vectors()
    return session
