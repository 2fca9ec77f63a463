"""The store against a plain dict, its wall, and forgetting that leaves no byte."""

import os
import sqlite3
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memgpt_cli.errors import StoreError
from memgpt_cli.memory import Item, SqliteStore


def key(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=8).astype(np.float32)
    return vector / np.linalg.norm(vector)


@pytest.fixture
def store(tmp_path):
    store = SqliteStore(tmp_path / "m.sqlite", "encoder-1")
    yield store
    store.close()


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("ab"), st.integers(0, 5)),
        st.tuples(st.just("forget"), st.sampled_from("ab"), st.integers(0, 5)),
        st.tuples(st.just("reopen"), st.just("a"), st.just(0)),
    ),
    max_size=25,
)


@given(OPERATIONS)
@settings(max_examples=30, deadline=None)
def test_the_store_behaves_like_a_dict(tmp_path_factory, operations):
    path = tmp_path_factory.mktemp("s") / "m.sqlite"
    store, model = SqliteStore(path, "e"), {"a": {}, "b": {}}
    for what, namespace, n in operations:
        if what == "add":
            store.add(namespace, [Item(f"text {n}", "note", {}, key(n))])
            model[namespace][n] = model[namespace].get(n, 0) + 1
        elif what == "forget":
            found = store.find(namespace, f"text {n}")
            assert store.forget(namespace, [e.id for e in found]) == len(found) == (n in model[namespace])
            model[namespace].pop(n, None)
        else:
            store.close()
            store = SqliteStore(path, "e")
        for ns, held in model.items():
            assert {e.text: e.count for e in store.list(ns)} == {f"text {k}": c for k, c in held.items()}
            (hits,) = store.search(ns, key(n)[None], 3)
            expected = sorted(held, key=lambda k: -float(key(k) @ key(n)))[:3]
            assert [h.entry.text for h in hits] == [f"text {k}" for k in expected]
    store.close()


def test_a_namespace_is_a_wall(store):
    (anna,) = store.add("anna", [Item("anna's secret", key=key(1))])
    store.add("ben", [Item("ben's note", key=key(2))])
    assert [h.entry.text for h in store.search("ben", key(1)[None], 9)[0]] == ["ben's note"]
    assert store.get("ben", [anna]) == []
    assert store.forget("ben", [anna]) == 0
    assert store.find("ben", "secret") == []
    with pytest.raises(StoreError, match=f"no entry {anna} in 'ben'"):
        store.update("ben", anna, Item("changed"))
    assert [e.text for e in store.list("anna")] == ["anna's secret"]


def test_forgotten_bytes_are_nowhere_on_disk(store, tmp_path):
    vector = key(7)
    ids = store.add("n", [Item("the zanzibar password is plugh-4711", "note", {"who": "zaphod"}, vector)])
    store.add("n", [Item("an innocent note", key=key(8))])
    on_disk = lambda: b"".join(p.read_bytes() for p in tmp_path.iterdir())  # noqa: E731
    assert b"plugh-4711" in on_disk()
    assert vector.tobytes() in on_disk()
    assert store.forget("n", ids) == 1
    for trace in (b"plugh-4711", b"zanzibar", b"zaphod", vector.tobytes()):
        assert trace not in on_disk()
    assert b"innocent" in on_disk()


def test_forgotten_bytes_are_nowhere_after_much_traffic(store, tmp_path):
    """SQLite moves rows between pages, and leaves copies behind that secure_delete does not overwrite."""
    rng = np.random.default_rng(1)
    markers = {}
    for n in range(300):
        text = f"marker-{n}-" + "x" * int(rng.integers(20, 400))
        markers[n] = store.add("n", [Item(text, key=key(n))])[0]
    store.rekey("n", list(markers.values()), np.stack([key(1000 + n) for n in markers]))
    gone = [n for n in markers if n % 3 == 0]
    store.forget("n", [markers[n] for n in gone])
    left = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert not [n for n in gone if f"marker-{n}-".encode() in left]
    assert not [n for n in gone if key(n).tobytes() in left or key(1000 + n).tobytes() in left]
    assert all(f"marker-{n}-".encode() in left for n in markers if n not in gone)


def test_edited_bytes_are_gone_too(store, tmp_path):
    (id,) = store.add("n", [Item("old words xyzzy", key=key(1))])
    store.update("n", id, Item("new words", key=key(2)))
    assert b"xyzzy" not in b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert store.search("n", key(2)[None], 1)[0][0].entry.text == "new words"


def test_keys_of_another_encoder_are_never_compared(store, tmp_path):
    store.add("n", [Item("old", key=key(1))])
    other = SqliteStore(tmp_path / "m.sqlite", "encoder-2")
    assert other.search("n", key(1)[None], 5) == [[]]
    stale = list(other.stale("n"))
    other.rekey("n", [e.id for e in stale], np.stack([key(3)]))
    assert other.search("n", key(3)[None], 5)[0][0].score == pytest.approx(1.0)
    assert not list(other.stale("n"))
    other.close()


def test_another_process_is_seen(store, tmp_path):
    store.add("n", [Item("one", key=key(1))])
    assert len(store.search("n", key(1)[None], 5)[0]) == 1
    other = SqliteStore(tmp_path / "m.sqlite", "encoder-1")
    other.add("n", [Item("two", key=key(2))])
    assert len(store.search("n", key(1)[None], 5)[0]) == 2
    other.close()


def test_only_the_owner_can_read_it(store, tmp_path):
    assert stat.S_IMODE(os.stat(tmp_path / "m.sqlite").st_mode) == 0o600


def test_what_is_no_store_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="cannot be opened as a memory store"):
        SqliteStore(tmp_path / "x")
    db = sqlite3.connect(tmp_path / "new")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(StoreError, match="format 99, expected 1"):
        SqliteStore(tmp_path / "new")
