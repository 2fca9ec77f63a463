"""The tokenizers of pretrained T5 models: the same ids as transformers gives, without transformers.

`tokenizer.json` is read by the `tokenizers` library, which wrote it. A `spiece.model` alone is turned into the pipeline
that transformers builds from it (T5Tokenizer): the model's own character map, words split at white space, sentinels
`<extra_id_0>` … after the vocabulary in descending order. ByT5 needs no file but its name.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from memgpt_cli.errors import CheckpointError, ConfigError
from memgpt_cli.tokenizer.base import EOS, PAD, UNK, Tokenizer
from memgpt_cli.tokenizer.lossless import LosslessTokenizer

JSON_FILE, SPIECE_FILE, CONFIG_FILE = "tokenizer.json", "spiece.model", "tokenizer_config.json"


def description_of(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG_FILE
    try:
        described: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise CheckpointError(f"{file} is no JSON: {error}") from error
    return described


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise CheckpointError("the tokenizers of pretrained models need a library: pip install 'memgpt-cli[hf]'") from error
    return tokenizers


def from_files(file: Path, folder: Path) -> "PretrainedTokenizer":
    library, described = _library(), description_of(folder)
    try:
        pipeline = library.Tokenizer.from_file(str(file)) if file.suffix == ".json" else _from_spiece(file, described)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise CheckpointError(f"{file} is no tokenizer: {error}") from error
    pipeline.no_padding(), pipeline.no_truncation()
    spiece = folder / SPIECE_FILE
    return PretrainedTokenizer(pipeline, described, spiece.read_bytes() if spiece.is_file() else b"")


def _from_spiece(file: Path, described: dict[str, Any]) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    library = _library()
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(file.read_bytes())
    if proto.trainer_spec.byte_fallback:
        raise CheckpointError(f"{file} has byte fallback, which needs the {JSON_FILE} of the same model beside it")
    extra = [f"<extra_id_{n}>" for n in range(described.get("extra_ids", 100))]
    pieces = [(p.piece, p.score) for p in proto.pieces] + [(token, 0.0) for token in reversed(extra)]
    pipeline = library.Tokenizer(library.models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=False))
    if proto.normalizer_spec.precompiled_charsmap:
        pipeline.normalizer = library.normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    metaspace = {"replacement": "▁", "prepend_scheme": "always", "split": True}
    pipeline.pre_tokenizer = library.pre_tokenizers.Sequence(
        [library.pre_tokenizers.WhitespaceSplit(), library.pre_tokenizers.Metaspace(**metaspace)]
    )
    pipeline.decoder = library.decoders.Metaspace(**metaspace)
    template = {"single": ["$A", "</s>"], "pair": ["$A", "</s>", "$B", "</s>"], "special_tokens": [("</s>", EOS)]}
    pipeline.post_processor = library.processors.TemplateProcessing(**template)
    control, user_defined = 3, 4
    own = [(p.piece, p.type == control) for p in proto.pieces if p.type in (control, user_defined)]
    named = described.get("additional_special_tokens") or described.get("extra_special_tokens") or []
    special = [*("<pad>", "</s>", "<unk>"), *extra, *(n if isinstance(n, str) else n["content"] for n in named)]
    pipeline.add_special_tokens([library.AddedToken(token, normalized=False, special=True) for token in dict.fromkeys(special)])
    pipeline.add_tokens([library.AddedToken(token, normalized=False) for token, is_control in own if not is_control])
    for _, token in sorted(_added_later(file.parent, described).items()):
        pipeline.add_tokens([library.AddedToken(**token)])
    return pipeline


def _added_later(folder: Path, described: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Tokens that somebody added after the vocabulary, by id: from tokenizer_config.json, or older files' added_tokens.json."""
    file = folder / "added_tokens.json"
    plain = json.loads(file.read_text()) if file.is_file() else {}
    found = {int(i): {"content": token, "normalized": False} for token, i in plain.items()}
    flags = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    for i, token in described.get("added_tokens_decoder", {}).items():
        found[int(i)] = {flag: token[flag] for flag in flags if flag in token}
    return found


def from_lossless(tokenizer: LosslessTokenizer) -> "PretrainedTokenizer":
    """One of our own tokenizers as a pipeline of the `tokenizers` library, so that others can read it.

    A literal U+2581 in a text is the one thing it does not keep: the library takes it for a space.
    """
    from sentencepiece import sentencepiece_model_pb2

    library = _library()
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(tokenizer.model)
    pieces = [(p.piece, p.score) for p in proto.pieces]
    pipeline = library.Tokenizer(library.models.Unigram(pieces, unk_id=UNK, byte_fallback=True))
    normalizers, decoders = library.normalizers, library.decoders
    pipeline.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    pipeline.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pipeline.add_special_tokens([library.AddedToken(token, normalized=False) for token in ("<pad>", "</s>", "<unk>")])
    template = {"single": ["$A", "</s>"], "pair": ["$A", "</s>", "$B", "</s>"], "special_tokens": [("</s>", EOS)]}
    pipeline.post_processor = library.processors.TemplateProcessing(**template)
    return PretrainedTokenizer(pipeline, {"tokenizer_class": "PreTrainedTokenizerFast"})


class PretrainedTokenizer(Tokenizer):
    """A pipeline of the `tokenizers` library. Not lossless: T5's maps characters, joins white space and knows no emoji."""

    def __init__(self, pipeline: Any, described: dict[str, Any], spiece: bytes = b"") -> None:
        self.pipeline, self.described, self._fingerprint = pipeline, described, ""
        self._spiece = spiece  # handed on for the tools that read nothing else
        found = tuple(self.pipeline.token_to_id(token) for token in ("<pad>", "</s>"))
        if found != (PAD, EOS):
            raise CheckpointError(f"this tokenizer has <pad>, </s> = {found}, expected {(PAD, EOS)}, as T5's have")

    def __len__(self) -> int:
        return int(self.pipeline.get_vocab_size())

    @property
    def fingerprint(self) -> str:
        if not self._fingerprint:
            described = json.loads(self.pipeline.to_str())
            if isinstance(described["model"]["vocab"], list):  # a score's last digits change from file to file
                described["model"]["vocab"] = [(piece, round(score, 3)) for piece, score in described["model"]["vocab"]]
            self._fingerprint = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
        return self._fingerprint

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [made.ids for made in self.pipeline.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        return str(self.pipeline.decode(list(ids), skip_special_tokens=True))

    def piece(self, i: int) -> str:
        return str(self.pipeline.id_to_token(i))

    def add(self, tokens: Sequence[str]) -> None:
        """More tokens, each with an id of its own after the last; what is known already stays as it is."""
        self.pipeline.add_tokens([_library().AddedToken(token, normalized=False) for token in tokens])
        self._fingerprint, self._spiece = "", b""

    def save(self, folder: Path) -> None:
        self.pipeline.save(str(folder / JSON_FILE))
        if self._spiece:
            (folder / SPIECE_FILE).write_bytes(self._spiece)
        described = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        (folder / CONFIG_FILE).write_text(json.dumps(described | self.described, ensure_ascii=False, indent=1))


class ByteTokenizer(Tokenizer):
    """ByT5's (arXiv 2105.13626): UTF-8 bytes plus 3, then the sentinels. Lossless but for the names of control tokens."""

    _FIRST_SENTINEL = 3 + 256

    def __init__(self, described: dict[str, Any]) -> None:
        self.described: dict[str, Any] = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": 125, **described}
        self.sentinels = [f"<extra_id_{n}>" for n in range(int(self.described["extra_ids"]) or 125)]
        self._ids = {"<pad>": PAD, "</s>": EOS, "<unk>": UNK}
        self._ids |= {name: self._FIRST_SENTINEL + n for n, name in enumerate(self.sentinels)}
        self._names = {i: name for name, i in self._ids.items()}
        # as in transformers, the three control tokens swallow the white space around them
        self._cut = re.compile(
            r"\s*(<pad>|</s>|<unk>)\s*|(" + "|".join(map(re.escape, sorted(self.sentinels, key=len, reverse=True))) + ")"
        )

    def __len__(self) -> int:
        return self._FIRST_SENTINEL + len(self.sentinels)

    @property
    def fingerprint(self) -> str:
        return f"bytes-{len(self.sentinels)}"

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._encode(text) for text in texts]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        done = 0
        for found in self._cut.finditer(text):
            ids += [byte + 3 for byte in text[done : found.start()].encode()]
            ids.append(self._ids[found.group(1) or found.group(2)])
            done = found.end()
        return ids + [byte + 3 for byte in text[done:].encode()]

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(i - 3 for i in ids if 3 <= i < self._FIRST_SENTINEL).decode("utf-8", errors="replace")

    def piece(self, i: int) -> str:
        return self._names[i] if i in self._names else chr(i - 3) if 3 <= i < self._FIRST_SENTINEL else ""

    def save(self, folder: Path) -> None:
        (folder / CONFIG_FILE).write_text(json.dumps(self.described, ensure_ascii=False, indent=1))


def add_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    """Adds `data.tokenizer.add`; raises ConfigError for a tokenizer that cannot take more."""
    if not tokens:
        return
    if not isinstance(tokenizer, PretrainedTokenizer):
        raise ConfigError(
            "data.tokenizer.add needs a pretrained SentencePiece tokenizer: one of our own, or bytes, can spell everything already"
        )
    tokenizer.add(tokens)
