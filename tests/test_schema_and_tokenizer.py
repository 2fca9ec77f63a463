"""Triples and tokens give back what went in."""

import pytest
from conftest import sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from memgpt_cli.errors import CheckpointError, ConfigError, DataError
from memgpt_cli.schema import Entry, Episode, Example, entry_from, parse_triple, render_triple
from memgpt_cli.tokenizer import EOS, PAD, load_tokenizer, same_words, train_tokenizer, word_parts

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ODD = [
    "", " ", "  two  spaces ", "\n", "a\r\nb\tc\x00d", "你好，世界", "😀👨‍👩‍👧", "</s> <pad> <unk> <0x41>", "▁a▁▁b", "\u2581", "x = {'a': 1}  # code",
    "ça, naïve — “quotes”", "\u202eright to left", "e\u0301", "\ufeff",
]  # fmt: skip


@given(TEXT, TEXT, TEXT)
@settings(max_examples=200, deadline=None)
def test_triples_come_back_as_they_were(head, relation, tail):
    assert parse_triple(render_triple(head, relation, tail)) == (head, relation, tail)


@pytest.mark.parametrize("text", ["just words", "a | b", "a | b | c | d", ""])
def test_other_text_is_no_triple(text):
    assert parse_triple(text) is None


@given(text=TEXT)
@settings(max_examples=300, deadline=None)
def test_tokenisation_loses_nothing(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert PAD not in ids
    assert EOS not in ids


@pytest.mark.parametrize("text", ODD)
def test_odd_strings_survive(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_all([text, "the cats", text]) == [tokenizer.encode(t) for t in (text, "the cats", text)]


def test_a_word_is_cut_alike_wherever_it_stands(tokenizer):
    name = tokenizer.encode("xyzzyplugh")
    inside = tokenizer.encode("the xyzzyplugh cats")
    assert any(inside[i : i + len(name)] == name for i in range(len(inside)))


def test_training_is_reproducible_and_saving_keeps_it(tokenizer, tmp_path):
    texts = [f"word{n} and some more words {n}" for n in range(50)]
    one, two = (train_tokenizer(texts, 320) for _ in range(2))
    assert one.fingerprint == two.fingerprint != tokenizer.fingerprint
    one.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == one.fingerprint


def test_what_is_no_tokenizer_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match="at least 300"):
        train_tokenizer(["a"], 100)


@pytest.mark.parametrize(
    ("episode", "message"),
    [
        (Episode("e", (), ()), "at least one example"),
        (Episode("e", (), (Example("q", " "),)), "empty target"),
        (Episode("e", (), (Example("", "a"),)), "empty input"),
        (Episode("e", (Entry(" "),), (Example("q", "a"),)), "entry 0 is empty"),
        (Episode("e", (Entry("x", "dream"),), (Example("q", "a"),)), "kind 'dream', expected one of fact"),
        (Episode("e", (Entry("x"),), (Example("q", "a", sees=2),)), "sees 2 entries, but the episode has 1"),
        (Episode("e", (Entry("x"),), (Example("q", "a", sees=0, evidence=(0,)),)), "outside the 0 entries it sees"),
    ],
)
def test_what_cannot_be_trained_on_is_said(episode, message):
    with pytest.raises(DataError, match=message):
        episode.validate()


def test_what_only_looks_like_a_triple_is_kept_to_the_letter():
    assert entry_from("a | b | c").kind == "fact"
    for text in ("C:\\temp | holds | the files", "a|b | c | d", "a | b"):
        assert entry_from(text) == Entry(text, "note")


def test_characters_of_chinese_can_be_pieces_of_their_own():
    """So that a name is cut alike whatever stands beside it; words of other scripts are pieces all the same."""
    texts = [f"我的猫叫{name}。 my cat is called Tom" for name in ("小花", "花花", "小虎", "大花猫")] * 30
    made = train_tokenizer(texts, 400, characters=True)
    pieces = [made.decode([n]) for n in made.encode("我的猫叫小花")]
    assert [piece for piece in pieces if piece] == ["我", "的", "猫", "叫", "小", "花"]
    plain = train_tokenizer(texts, 400)
    assert len(plain.encode("我的猫叫小花")) < len(made.encode("我的猫叫小花"))
    text = "我的猫叫𠀀小花, my cat"
    assert made.decode(made.encode(text)) == text


def test_coverage_leaves_the_rarest_characters_to_bytes():
    texts = ["abcabcabc " * 40 + "ß"]
    assert len(train_tokenizer(texts, 300, coverage=0.99).encode("ß")) > len(
        train_tokenizer(texts, 300, coverage=1.0).encode("ß")
    )


def test_pieces_that_say_the_same_are_known():
    tokenizer = train_tokenizer(["Anna and anna, (Anna) or ANNA: Anna. The cat, the Cat; 猫 and 猫。"] * 30, 320)
    same = same_words(tokenizer)
    by_piece = {tokenizer.piece(i): same[i] for i in range(len(tokenizer))}
    assert [same[i] for i in range(3)] == [0, 0, 0]
    assert len({n for piece, n in by_piece.items() if piece.strip(" \u2581").lower() == "anna"}) == 1
    said = [piece.strip(" \u2581").casefold() or piece for piece in by_piece]
    assert len(set(same[3:])) == len(set(said[3:])), "and nothing else is the same"


def test_parts_of_words_are_known():
    made = train_tokenizer([sentence(n, 9) + " 我的猫叫毛毛" for n in range(200)], 330)
    parts = list(word_parts(made))

    def inside(text):
        ids = made.encode(text)
        return [parts[b][0] and parts[a][1] for a, b in zip([0, *ids], ids, strict=False)]

    assert len(parts) == len(made)
    text = "my Zqx 毛"
    begin = [made.decode([i]).strip()[:1] for i, within in zip(made.encode(text), inside(text), strict=True) if not within]
    assert [c for c in begin if c] == ["m", "Z", "毛"], "where words begin"
    assert not any(inside("a b c"))
    assert inside("\U00020000")[-3:] == [True] * 3, "bytes of one character belong together"
