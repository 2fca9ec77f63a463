"""Lossless SentencePiece tokenisation: `decode(encode(text)) == text` for any text that UTF-8 can hold.

The unknown id is never produced: bytes stand in.
"""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import regex
import sentencepiece

from memgpt_cli.errors import CheckpointError, ConfigError
from memgpt_cli.scripts import UNSPACED
from memgpt_cli.tokenizer.base import EOS, PAD, UNK, Tokenizer

MODEL_FILE = "tokenizer.model"
_CUT = "\u2582"  # between what shall be no piece together, while training
_SPACE = "\u2581"  # SentencePiece writes a space so; in the text itself it is spelled out in bytes


class LosslessTokenizer(Tokenizer):
    """A SentencePiece model with byte fallback.

    Every text is encoded after one space of our own, so that a word is cut alike wherever it stands: a name
    in a question and in a fact are the same ids, and can be copied.
    """

    lossless = True

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model, num_threads=1)  # threads cost 0.1 ms a call
        self._space_bytes = [self._pieces.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE.encode()]
        special = (self._pieces.pad_id(), self._pieces.eos_id(), self._pieces.unk_id())
        if special != (PAD, EOS, UNK):
            raise CheckpointError(
                f"this SentencePiece model has pad, eos, unk = {special}, expected {(PAD, EOS, UNK)}, as T5's have"
            )
        if UNK in self._space_bytes:
            raise CheckpointError("this SentencePiece model has no byte fallback, so text would be lost: train one with it")

    def __len__(self) -> int:
        return int(self._pieces.vocab_size())

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self.model).hexdigest()[:16]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        plain: list[list[int]] = self._pieces.encode([" " + text for text in texts])
        for n, text in enumerate(texts):
            if _SPACE in text:
                parts = self._pieces.encode((" " + text).split(_SPACE))
                plain[n] = [i for k, part in enumerate(parts) for i in ([*self._space_bytes] if k else []) + part]
        return plain

    def decode(self, ids: Iterable[int]) -> str:
        """The text; control ids are left out, broken bytes become U+FFFD."""
        out = bytearray()
        for i in ids:
            if self._pieces.is_byte(i):
                out.append(int(self._pieces.id_to_piece(i)[3:5], 16))
            elif not self._pieces.is_control(i):
                out += self._pieces.id_to_piece(i).replace(_SPACE, " ").encode()
        text = out.decode("utf-8", errors="replace")
        return text.removeprefix(" ")

    def piece(self, i: int) -> str:
        return str(self._pieces.id_to_piece(i))

    def save(self, folder: Path) -> None:
        (folder / MODEL_FILE).write_bytes(self.model)

    @staticmethod
    def load(path: Path) -> "LosslessTokenizer":
        """Reads `path`, a model file or a folder that holds one; raises CheckpointError."""
        file = path / MODEL_FILE if path.is_dir() else path
        if not file.is_file():
            raise CheckpointError(f"no tokenizer at {file}")
        model = file.read_bytes()
        if not model:  # the library writes a line of its own about it
            raise CheckpointError(f"{file} is not a SentencePiece model: it is empty")
        try:
            return LosslessTokenizer(model)
        except RuntimeError as error:
            raise CheckpointError(f"{file} is not a SentencePiece model, or a damaged one") from error


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, seed: int = 0, coverage: float = 0.9999, characters: bool = False
) -> LosslessTokenizer:
    """A unigram model with byte fallback and identity normalisation, trained on `texts`.

    Of all characters that occur, the rarest, a share of 1 - `coverage`, get no piece: bytes stand in. With `characters`
    those of scripts without spaces are pieces of their own, so that a name is cut alike whatever stands beside it. The
    vocabulary is made smaller where the text cannot fill it. Raises ConfigError for a size that cannot hold the bytes and
    characters.
    """
    if vocab_size < 300:
        raise ConfigError(f"data.tokenizer.vocab_size is {vocab_size}, expected at least 300 (256 bytes and some pieces)")
    sentencepiece.set_random_generator_seed(seed)
    sentencepiece.set_min_log_level(2)
    alone = regex.compile(rf"[{UNSPACED}]") if characters else None
    lines = (
        " " + (alone.sub(_CUT + r"\g<0>" + _CUT, line) if alone else line)
        for text in texts
        for line in text.replace(_SPACE, " ").replace(_CUT, " ").split("\n")
        if line and "\0" not in line
    )
    cut: dict[str, Any] = {"pretokenization_delimiter": _CUT} if characters else {}
    sink = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=sink,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            character_coverage=coverage,
            max_sentence_length=65536,
            user_defined_symbols=["\n"],
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNK,
            bos_id=-1,
            **cut,
            num_threads=1,  # more threads would make the pieces depend on the machine
        )
    except RuntimeError as error:
        needed = re.search(r"required_chars\D*\d+ vs (\d+)", str(error))
        why = f"its characters alone need {needed.group(1)}" if needed else "there is too little of it, or none"
        raise ConfigError(f"data.tokenizer.vocab_size: no {vocab_size} pieces can be made from this text: {why}") from error
    return LosslessTokenizer(sink.getvalue())
