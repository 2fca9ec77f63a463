"""Ids of pretrained tokenizers are transformers' own, on odd strings too."""

import json
import shutil
import sys

import pytest

transformers = pytest.importorskip("transformers", reason="memgpt-cli[hf] is not installed")

import sentencepiece  # noqa: E402
from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from memgpt_cli.errors import CheckpointError, ConfigError  # noqa: E402
from memgpt_cli.tokenizer import load_tokenizer, train_tokenizer  # noqa: E402
from memgpt_cli.tokenizer.pretrained import add_tokens  # noqa: E402

from conftest import sentence  # noqa: E402  # isort: skip

KINDS = ("spiece", "tokenizer.json", "mt5", "umt5", "byt5", "added_tokens.json", "added_tokens_decoder")
ODD = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(
            ["<extra_id_0>", "<extra_id_99>", "#P1#", " #P2# ", "<extra_id_100>", "<extra_id_", "</s>", "<pad>", "<unk>", "▁", " ", "  ", "\n", "\t\r\n", "\u3000", "\u00a0",
             "\u200b", "\ufeff", "😀", "👩‍👩‍👧", "中文", "測試。", "ﬁ", "①", "e\u0301", "\x00", "\x1b[0m", "the red house", "Ａ", "İ", "ß", "<0x0A>", "!?", "12,345.6"]
        ),
    ),
    max_size=8,
).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind, as the hub's repositories hold them."""
    root = tmp_path_factory.mktemp("tokenizers")
    texts = [sentence(n, 12) for n in range(60)] + ["中文测试，很好。", "the ﬁne house: 12,345.6!", "É e a<b>_[]"] * 5
    extra = [f"<extra_id_{n}>" for n in range(100)]
    for kind, count in (("spiece", 100), ("mt5", 0)):
        (root / kind).mkdir()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_prefix=str(root / kind / "spiece"), vocab_size=160, hard_vocab_limit=False, pad_id=0,
            eos_id=1, unk_id=2, bos_id=-1, minloglevel=2, user_defined_symbols=["<extra_id_0>", "<b>"] if kind == "mt5" else [],
        )  # fmt: skip
        described = {
            "tokenizer_class": "T5Tokenizer",
            "extra_ids": count,
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
        }
        described |= {"additional_special_tokens": extra} if count else {}
        (root / kind / "tokenizer_config.json").write_text(json.dumps(described))
    transformers.AutoTokenizer.from_pretrained(root / "spiece").save_pretrained(root / "tokenizer.json")
    for kind in ("added_tokens.json", "added_tokens_decoder"):  # what somebody's fine-tuning left behind
        shutil.copytree(root / "spiece", root / kind)
        size = len(transformers.AutoTokenizer.from_pretrained(root / "spiece"))
        (root / kind / "added_tokens.json").write_text(json.dumps({"#P2#": size + 1, "#P1#": size}))
        if kind == "added_tokens_decoder":
            file = root / kind / "tokenizer_config.json"
            flags = {"single_word": False, "normalized": False, "special": False, "rstrip": False}
            later = {
                str(size): {"content": "#P1#", "lstrip": False, **flags},
                str(size + 1): {"content": "#P2#", "lstrip": True, **flags},
            }
            file.write_text(json.dumps(json.loads(file.read_text()) | {"added_tokens_decoder": later}))
    (root / "umt5").mkdir()
    own = train_tokenizer([sentence(n, 12) for n in range(60)], 320)
    (root / "umt5" / "config.json").write_text(json.dumps({"model_type": "umt5"}))
    _byte_fallback_pipeline(own.model).save(str(root / "umt5" / "tokenizer.json"))
    (root / "umt5" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "pad_token": "<pad>"})
    )
    transformers.ByT5Tokenizer().save_pretrained(root / "byt5")
    return root


def _byte_fallback_pipeline(model: bytes):
    """umT5's: a unigram model that spells unknown characters in bytes."""
    import tokenizers
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    made = tokenizers.Tokenizer(
        tokenizers.models.Unigram([(p.piece, p.score) for p in proto.pieces], unk_id=2, byte_fallback=True)
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.decoder = tokenizers.decoders.Metaspace()
    made.add_special_tokens(["<pad>", "</s>", "<unk>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    return made


@pytest.fixture(scope="module", params=KINDS)
def both(request, folders):
    folder = folders / request.param
    return transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)


@settings(max_examples=300, deadline=None)
@given(text=ODD)
@example(text="")
@example(text=" <extra_id_0> a </s> b<extra_id_1>")
def test_ids_and_texts_are_theirs(both, text):
    theirs, ours = both
    text = text.encode("utf-8", errors="ignore").decode()  # lone surrogates are no text
    ids = ours.encode(text)
    assert ids == theirs(text, add_special_tokens=False).input_ids
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_a_saved_tokenizer_is_the_same(both, tmp_path):
    theirs, ours = both
    ours.save(tmp_path)
    again = load_tokenizer(tmp_path)
    text = "the red house <extra_id_3> 中文 😀"
    assert again.encode(text) == ours.encode(text)
    assert again.fingerprint == ours.fingerprint
    assert len(again) == len(ours)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path)(text).input_ids == theirs(text).input_ids


def test_added_tokens_are_one_id_each(folders, tokenizer):
    ours = load_tokenizer(folders / "spiece")
    size = len(ours)
    add_tokens(ours, ["#Person1#", "#Person2#"])
    assert len(ours) == size + 2
    assert ours.encode("#Person2# sings") == [size + 1, *ours.encode("sings")]
    assert ours.decode(ours.encode("#Person2# sings")).replace(" ", "") == "#Person2#sings"
    with pytest.raises(ConfigError, match="data.tokenizer.add"):
        add_tokens(tokenizer, ["x"])


def test_a_missing_library_is_one_line_that_installs_it(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(CheckpointError, match=r"pip install 'memgpt-cli\[hf\]'"):
        load_tokenizer(folders / "spiece")


def test_what_is_no_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tokenizer: expected tokenizer.model"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is no tokenizer"):
        load_tokenizer(tmp_path)
