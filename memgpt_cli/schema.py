"""The data model every layer shares: episodes of examples over one time-ordered memory, and the model's shape.

    Episode  id · entries · examples
    Entry    text · kind · meta            its time is its index in the episode
    Example  input · target · references · sees · evidence · task

An example sees the first `sees` entries: what stood in memory when its input was said.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from memgpt_cli.errors import ConfigError, DataError

KINDS = ("fact", "turn", "chunk", "pair", "note")
TIMELESS = ("fact", "pair")  # kinds whose place in memory says nothing
TASKS = ("dialogue", "qa", "summarisation", "translation", "text")

RESTS_ON = "evidence"
"""In an episode's meta: what its examples rest on in the corpus, a list of ids or exact texts."""

Meta = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One piece of memory: a dialogue turn, a fact, a document chunk, a translation pair, a note of the user's."""

    text: str
    kind: str = "note"
    meta: Meta = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Example:
    """What is asked (`input`), what is to be written (`target`), and how much memory existed by then (`sees`)."""

    input: str
    target: str
    sees: int = 0
    references: tuple[str, ...] = ()
    evidence: tuple[int, ...] = ()
    task: str = "dialogue"

    @property
    def all_references(self) -> tuple[str, ...]:
        return self.references or (self.target,)


@dataclass(frozen=True, slots=True)
class Episode:
    """Examples that share one memory: the unit on disk, in a batch and in an evaluation."""

    id: str
    entries: tuple[Entry, ...]
    examples: tuple[Example, ...]
    meta: Meta = field(default_factory=dict)

    def problems(self) -> Iterator[tuple[int | None, str]]:
        """What no model could be trained on: (example, reason), or (None, reason) where the whole episode is wrong."""
        if not self.examples:
            yield None, "an episode needs at least one example, found none"
        for n, entry in enumerate(self.entries):
            if entry.kind not in KINDS:
                yield None, f"entry {n} has kind '{entry.kind}', expected one of {', '.join(KINDS)}"
            if not entry.text.strip():
                yield None, f"entry {n} is empty"
            if what := unfit(entry.text):
                yield None, f"entry {n} holds {what}"
        for n, example in enumerate(self.examples):
            if what := next(filter(None, map(unfit, (example.input, example.target, *example.references))), ""):
                yield n, f"example {n} holds {what}"
            if not example.target.strip():
                yield n, f"example {n} has an empty target"
            if not example.input.strip():
                yield n, f"example {n} has an empty input"
            if not 0 <= example.sees <= len(self.entries):
                yield n, f"example {n} sees {example.sees} entries, but the episode has {len(self.entries)}"
            elif any(not 0 <= e < example.sees for e in example.evidence):
                yield n, f"example {n} names evidence {example.evidence} outside the {example.sees} entries it sees"

    def validate(self) -> "Episode":
        """Returns itself; raises DataError with the first problem."""
        for _, reason in self.problems():
            raise DataError(reason)
        return self


def unfit(text: str) -> str:
    """What a text holds that no text file should, in words; empty where it is sound."""
    if "\0" in text:
        return "a NUL byte"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "half of a surrogate pair, or bytes that are no UTF-8"
    return ""


SEPARATOR = " | "


def _escape(part: str) -> str:
    return part.replace("\\", "\\\\").replace("|", "\\|")


def render_triple(head: str, relation: str, tail: str) -> str:
    """A triple as entry text, `head | relation | tail`; `parse_triple` gives it back whatever the parts hold."""
    return SEPARATOR.join(_escape(part) for part in (head, relation, tail))


def parse_triple(text: str) -> tuple[str, str, str] | None:
    """The triple that `render_triple` wrote, or None where the text is not one."""
    parts, current, position = [], [], 0
    while position < len(text):
        if text[position] == "\\" and position + 1 < len(text):
            current.append(text[position + 1])
            position += 2
        elif text.startswith(SEPARATOR, position):
            parts.append("".join(current))
            current = []
            position += len(SEPARATOR)
        else:
            current.append(text[position])
            position += 1
    parts.append("".join(current))
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None


def entry_from(text: str, kind: str = "note") -> Entry:
    """A note of the user's (or what `kind` says); `head | relation | tail` is a fact."""
    triple = parse_triple(text)
    if triple is None or render_triple(*triple) != text:  # what only looks like one is kept to the letter
        return Entry(text, kind)
    return Entry(text, "fact", {"triple": list(triple)})


@dataclass(frozen=True)
class ReadConfig:
    """How the decoder reads memory (`model.memory`)."""

    top_k: int = 256  # entries read per example; all visible ones where fewer
    sizes: tuple[int, ...] = (0,)  # while training: entries read, taken in turn by step; 0 is top_k
    max_time: int = 512  # entries further back share the last time embedding
    age_buckets: int = 16  # of the learned bias for how long ago an entry came
    beta: float = 1.0  # how much the retrieval score weighs in the cross-attention's logits, at the start
    score_scale: float = 5.0  # of the cosine between query and key, at the start
    words: bool = False  # the score also weighs the tokens, and the pairs of tokens, that an input and an entry share
    vector: bool = False  # the decoder also begins from one vector of the input and of what is read
    gate: bool = False  # memory's share of the attention is multiplied by a learned weight per head that starts at 0

    def __post_init__(self) -> None:
        check_bounds("model.memory", self, top_k=(1, 1 << 20), max_time=(1, 1 << 20), age_buckets=(2, 4096))
        check_bounds("model.memory", self, beta=(-1e4, 1e4), score_scale=(-1e4, 1e4))
        if not all(0 <= size <= 1 << 20 for size in self.sizes):
            raise ConfigError(f"model.memory.sizes is {list(self.sizes)}, expected numbers of entries, 0 for top_k")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a memory Transformer; T5's names where T5 has one.

    With `init_from` the shape is the checkpoint's: of these settings only `memory`, `dropout`, `copy` and those of
    loading are read.
    """

    init_from: str = ""  # a hub id or a folder in Hugging Face format to start from
    revision: str = ""  # of the hub's repository: a branch, tag or commit; its main branch where empty
    init_parts: str = "all"  # all | encoder (embedding and encoder; the decoder starts from random weights)
    d_model: int = 128  # width of the states
    n_heads: int = 4  # of every attention
    d_kv: int = 32  # width of a head
    d_ff: int = 256  # width of the feed-forward layers
    n_encoder_layers: int = 2  # layers that encode inputs and entries
    n_decoder_layers: int = 2  # layers that write
    activation: str = "silu"  # silu | gelu | relu
    gated: bool = True  # a gate in the feed-forward layers (T5 v1.1)
    position: str = "rope"  # rope | relative (T5's buckets, shared by the layers) | relative_per_layer (umT5)
    relative_buckets: int = 32  # of T5's position bias
    relative_max_distance: int = 128  # beyond which T5's position bias is one
    qk_norm: bool = False  # normalise queries and keys, head by head
    convolution: bool = False  # a depthwise convolution over two tokens to each side before the encoder's attention
    encoder_window: int = 0  # how many tokens to each side the encoder sees (LongT5's local attention); 0 sees all
    norm_eps: float = 1e-6  # of the RMSNorm
    dropout: float = 0.1  # while training
    tie_embeddings: bool = True  # the output layer is the embedding
    scale_embeddings: bool = True  # multiply what goes in by d_model**0.5 (Transformer); T5 does not
    scale_logits: bool = False  # multiply by d_model**-0.5 before the head (T5 v1.0)
    scale_attention: bool = True  # divide attention logits by d_kv**0.5; T5 does not
    copy: bool = True  # a pointer head that copies from input and memory
    memory: ReadConfig = field(default_factory=ReadConfig)
    vocab_size: int = 0  # set from the tokenizer

    def __post_init__(self) -> None:
        check_bounds("model", self, d_model=(1, 65_536), n_heads=(1, 1024), d_kv=(1, 4096), d_ff=(1, 1 << 20))
        check_bounds("model", self, n_encoder_layers=(1, 1024), n_decoder_layers=(1, 1024), vocab_size=(0, 1 << 24))
        check_bounds(
            "model", self, relative_buckets=(2, 65_536), relative_max_distance=(2, 1 << 20), encoder_window=(0, 1 << 20)
        )
        check_bounds("model", self, norm_eps=(0, 1), dropout=(0, 1))
        if self.position == "rope" and self.d_kv % 2:
            raise ConfigError(f"model.d_kv ({self.d_kv}) must be even for model.position=rope")
        _one_of(self, "activation", ("silu", "gelu", "relu"))
        _one_of(self, "position", ("rope", "relative", "relative_per_layer"))
        _one_of(self, "init_parts", ("all", "encoder"))
        if self.dropout == 1:
            raise ConfigError("model.dropout is 1, expected less: nothing would be left")


def check_bounds(place: str, config: Any, **bounds: tuple[float, float]) -> None:
    """Raises ConfigError for a setting outside its bounds, both of which are allowed; a number that is none (NaN) is outside."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not low <= value <= high:
            raise ConfigError(
                f"{place}{'.' * bool(place)}{name} is {value}, expected "
                + (f"at least {low:,}" if value < low else f"at most {high:,}" if value > high else "a number")
            )


def _one_of(config: Any, name: str, allowed: tuple[str, ...]) -> None:
    if getattr(config, name) not in allowed:
        raise ConfigError(f"model.{name} is '{getattr(config, name)}', expected one of {', '.join(allowed)}")
