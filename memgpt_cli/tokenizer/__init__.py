"""Text to ids and back: our own lossless tokenizers, and those of pretrained models, id for id."""

from memgpt_cli.tokenizer.base import EOS, PAD, UNK, Tokenizer
from memgpt_cli.tokenizer.load import load_tokenizer
from memgpt_cli.tokenizer.lossless import MODEL_FILE, LosslessTokenizer, train_tokenizer
from memgpt_cli.tokenizer.spelling import same_words, word_parts

__all__ = [
    "EOS",
    "MODEL_FILE",
    "PAD",
    "UNK",
    "LosslessTokenizer",
    "Tokenizer",
    "load_tokenizer",
    "same_words",
    "train_tokenizer",
    "word_parts",
]
