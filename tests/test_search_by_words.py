"""Search by words against the formula itself, and what is one word."""

import math
import random
from collections import Counter

import pytest

from memgpt_cli.store import Filter, Item, open_store
from memgpt_cli.store.lexical import K1, B, query_terms, stem, terms
from memgpt_cli.store.sqlite import words

WORDS = [f"{a}{b}" for a in ("ba", "ko", "mi", "tu", "ze") for b in ("nar", "lot", "sim", "veg", "dup")] + [
    "走",
    "茶叶",
    "喝茶",
]


def holds(held: Counter[str], term: str) -> int:
    return sum(n for t, n in held.items() if t.startswith(term[:-1])) if term.endswith("*") else held[term]


def naive(texts: list[str], query: str, ids: list[int]) -> dict[int, float]:
    """BM25 as it is written down, of every text."""
    held = [Counter(terms(text)) for text in texts]
    mean = sum(h.total() for h in held) / len(held)
    scores = dict.fromkeys(ids, 0.0)
    for term in query_terms(query):
        if term.endswith("*"):  # as many as hold each of the pairs that begin so
            holding = min(len(texts), sum(1 for h in held for t in h if t.startswith(term[:-1])))
        else:
            holding = sum(holds(h, term) > 0 for h in held)
        idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
        for id, h in zip(ids, held, strict=True):
            n = holds(h, term)
            scores[id] += idf * n * (K1 + 1) / (n + K1 * (1 - B + B * h.total() / mean))
    return {id: score for id, score in scores.items() if score}


@pytest.fixture
def filled(tmp_path):
    """A store with a large namespace of common words beside a small one, and their texts."""
    rng = random.Random(1)
    weights = [1 / (n + 1) for n in range(len(WORDS))]

    def some(n: int) -> list[str]:
        return list(dict.fromkeys(" ".join(rng.choices(WORDS, weights, k=rng.randint(1, 25))) for _ in range(n)))

    with open_store(str(tmp_path / "s.sqlite")) as store:
        texts = {"large": some(1500), "small": some(30)}
        yield store, texts, {name: store.put(name, [Item(t) for t in own]).ids for name, own in texts.items()}


def test_the_ranking_is_bm25_of_the_namespace_alone(filled):
    store, texts, ids = filled
    rng = random.Random(2)
    for _ in range(40):
        query = " ".join(rng.sample(WORDS, rng.randint(1, 8)))
        for name in texts:
            wanted = naive(texts[name], query, list(ids[name]))
            hits = store.search(name, texts=[query], k=10)[0]
            assert [h.words for h in hits] == pytest.approx(sorted(wanted.values(), reverse=True)[:10])
            assert [h.words for h in hits] == pytest.approx([wanted[h.entry.id] for h in hits])
            without = frozenset(h.entry.id for h in hits[:4])
            others = store.search(name, texts=[query], k=5, where=Filter(without=without))[0]
            assert [h.words for h in others] == pytest.approx(sorted((s for i, s in wanted.items() if i not in without), reverse=True)[:5])  # fmt: skip


def test_beyond_many_places_common_words_count_for_what_the_rarer_ones_found(filled, monkeypatch):
    store, texts, ids = filled
    monkeypatch.setattr(words, "PLACES", 100)
    query = " ".join(WORDS)
    wanted = naive(texts["large"], query, list(ids["large"]))
    hits = store.search("large", texts=[query], k=5)[0]
    assert [h.words for h in hits] == pytest.approx([wanted[h.entry.id] for h in hits])


def test_forms_of_a_word_are_one():
    for forms in (
        "Running runs RUN",
        "cities city City's",
        "Cafés café cafe",
        "красный красные красного",
        "naïve naive",
        "σπίτι σπίτια",
        "ＦＵＬＬ full",
    ):
        assert len({terms(form)[0] for form in forms.split()}) == 1, forms
    assert [stem(w) for w in ("8stars", "resto_tbilisi", "3rd", "x")] == ["8stars", "resto_tbilisi", "3rd", "x"]
    assert query_terms("What is the cat of the house?") == ["what", "cat", "hous"]
    assert query_terms("to be or not to be") == ["to", "be", "or", "not"]
    assert terms("喝茶") == ["喝茶", "茶"]


def test_an_index_made_by_other_rules_is_made_anew(tmp_path):
    """A file of format 3: words as they stand, and no counts of them."""
    path = tmp_path / "old.sqlite"
    with open_store(str(path)) as store:
        ids = store.put("n", [Item("She was running home"), Item("silent", searchable=False)]).ids
        store.put("m", [Item("two cities")])
        with store._db.writing() as db:
            db.execute("INSERT INTO words (words) VALUES ('delete-all')")
            db.execute("INSERT INTO words (rowid, terms) VALUES (?, 'n1xshe n1xwas n1xrunning n1xhome')", (ids[0],))
            db.execute("DROP TABLE word_places")
            db.execute("ALTER TABLE namespaces DROP COLUMN terms")
            db.execute("DELETE FROM meta WHERE name='terms'")
            db.pragma("user_version", 3)
    for _ in range(2):
        with open_store(str(path), create=False) as store:
            assert store.verify() == []
            assert [h.entry.id for h in store.search("n", texts=["who runs?"])[0]] == [ids[0]]
            assert [h.entry.text for h in store.search("m", texts=["city"])[0]] == ["two cities"]
    with open_store(str(path)) as store:
        store.forget("n", [ids[0]])
        assert store.verify() == []
        assert store.search("n", texts=["running"]) == [[]]
    assert b"n1xrun" not in path.read_bytes()
