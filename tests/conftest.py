"""Small fixtures of the tests' own: a toy tokenizer, tiny models, a data set of a few dialogues."""

import functools
import io
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from memgpt_cli.config import Config, DataConfig, TokenizerConfig, TrainerConfig
from memgpt_cli.data.preprocess import preprocess
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.schema import Entry, Episode, Example, ModelConfig, ReadConfig
from memgpt_cli.tokenizer import Tokenizer, train_tokenizer

torch.set_num_threads(1)  # two test processes on two cores

WORDS = [
    "the",
    "red",
    "house",
    "stands",
    "by",
    "a",
    "river",
    "and",
    "anna",
    "keeps",
    "three",
    "grey",
    "cats",
    "there",
    "while",
    "peter",
    "sings",
    "of",
    "old",
    "ships",
    "at",
    "night",
]
TINY = {"d_model": 32, "n_heads": 2, "d_kv": 16, "d_ff": 48, "n_encoder_layers": 2, "n_decoder_layers": 2, "dropout": 0.0}


def tiny_model(vocab_size: int, seed: int = 0, **changes: object) -> MemoryTransformer:
    torch.manual_seed(seed)
    read = changes.pop("memory", ReadConfig(age_buckets=6, max_time=16))
    model = MemoryTransformer(ModelConfig(**{**TINY, **changes}, memory=read, vocab_size=vocab_size))  # type: ignore[arg-type]
    with torch.no_grad():  # so that no bias is the same everywhere
        model.retriever.age_bias.normal_(1.0, 0.5)
        if model.retriever.words is not None:  # which weighs every word alike
            for weight in model.retriever.words.parameters():
                weight.normal_(0.0, 0.5)
            model.retriever.words.same.copy_(torch.randint(0, vocab_size // 2, (vocab_size,)))
            model.retriever.words.same[:3] = 0  # no text
        if model.pointer is not None:  # which begins without one
            model.pointer.follow.weight.normal_(0.0, 0.3)
            model.pointer.parts.copy_(torch.rand(vocab_size, 2) < 0.5)
        for name, weight in model.named_parameters():  # which begin as ones
            if name.endswith(("q_norm.weight", "k_norm.weight")):
                weight.normal_(1.0, 0.3)
        for layer in model.encoder.layers:  # which begins as the identity
            if layer.convolution is not None:
                layer.convolution.near.normal_(0.0, 0.3)
    return model.eval()


def sentence(n: int, length: int) -> str:
    return " ".join(WORDS[(n * 7 + k * (n + 3)) % len(WORDS)] for k in range(length))


def make_episode(n: int, entries: int = 5, examples: int = 3) -> Episode:
    """An episode whose examples see different shares of its entries."""
    kinds = ("turn", "fact", "chunk", "note")
    memory = tuple(Entry(sentence(n + k, 2 + (k + n) % 5), kinds[(k + n) % 4]) for k in range(entries))
    asked = tuple(
        Example(
            sentence(n + 2 * k, 3 + k),
            sentence(n + k, 2 + (n + k) % 4),
            min(entries, 2 * k),
            evidence=(0,) if 2 * k and entries else (),
        )
        for k in range(examples)
    )
    return Episode(f"episode-{n}", memory, asked)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer([sentence(n, 12) for n in range(60)], 320)


@pytest.fixture(scope="session")
def facts_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DataConfig]:
    """A small preprocessed `facts` data set."""
    options = {
        "facts": 12,
        "facts_min": 6,
        "facts_test": 12,
        "questions": 4,
        "episodes_train": 24,
        "episodes_valid": 4,
        "episodes_test": 4,
    }
    config = DataConfig(name="facts", source="facts", path="", options=options, tokenizer=TokenizerConfig(vocab_size=320))
    return preprocess(config, tmp_path_factory.mktemp("data")).folder, config


@pytest.fixture
def tiny_config(facts_data: tuple[Path, DataConfig]) -> Config:
    trainer = TrainerConfig(
        max_steps=6, batch_tokens=600, val_every=3, val_batches=2, checkpoint_every=2, log_every=1, threads=1
    )
    return Config(data=facts_data[1], model=ModelConfig(**TINY), trainer=trainer)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def t5_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Flan-T5-shaped model with its tokenizer, as the hub's repositories hold one."""
    transformers = pytest.importorskip("transformers", reason="memgpt-cli[hf] is not installed")
    import sentencepiece

    folder = tmp_path_factory.mktemp("hub") / "tiny-flan-t5"
    folder.mkdir()
    texts = [sentence(n, 12) for n in range(60)] + [f"{n} | lives in: city {n}?" for n in range(300)]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "spiece"),
        vocab_size=200,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, tokenizer_type="t5")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    config = transformers.T5Config(
        vocab_size=len(tokenizer) + 4,
        d_model=24,
        d_kv=10,
        d_ff=36,
        num_heads=3,
        num_layers=2,
        num_decoder_layers=2,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(config)
    model.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, 24) * 0.1)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def full_data() -> Path:
    """The full public data sets, where MEMGPT_TEST_DATA names their folder."""
    folder = os.environ.get("MEMGPT_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MEMGPT_TEST_DATA names no folder of public data sets")
    return Path(folder)


class Said(NamedTuple):
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


class Terminal:
    """Runs `memgpt …` in this process as `main` does, in a folder of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, columns: int = 300) -> None:
        self.folder, self._patch = folder, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("MEMGPT_HOME", str(folder / "home"))
        monkeypatch.setenv("COLUMNS", str(columns))

    def __call__(self, *words: str, text: str | bytes = "") -> Said:
        from memgpt_cli.cli import app, load_commands, run

        load_commands()
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace") for _ in range(2))
        given = io.BytesIO(text.encode() if isinstance(text, str) else text)
        with self._patch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(given, "utf-8", errors="surrogateescape"))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            code = run(functools.partial(app, list(words), prog_name="memgpt"))
            out.flush(), err.flush()
        return Said(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))  # type: ignore[attr-defined]


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    return Terminal(tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def small_run(facts_data: tuple[Path, DataConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run trained for six steps; to be copied, not changed."""
    from rich.console import Console

    from memgpt_cli.training.fit import train

    folder = tmp_path_factory.mktemp("runs") / "small"
    trainer = TrainerConfig(max_steps=6, batch_tokens=600, val_every=3, val_batches=2, checkpoint_every=2, threads=1)
    config = Config(data=facts_data[1], model=ModelConfig(**TINY), trainer=trainer)  # type: ignore[arg-type]
    train(config, facts_data[0], folder, Console(quiet=True))
    return folder
