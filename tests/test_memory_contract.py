"""Every engine against a plain dict: the same operations, the same answers, a wall between namespaces."""

import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memgpt_cli.errors import StoreError
from memgpt_cli.store import Filter, Item, Limits, Row, open_store
from memgpt_cli.store import bundle as bundles
from memgpt_cli.store.lexical import query_terms, terms

TEXTS = (
    "the red house", "a red café", "The Café by the river", "我喜欢绿茶", "绿茶和咖啡", "茶", "kot 😀 ünïcode",
    "'; DROP TABLE entries; --", 'n1xred OR "n2xhouse"* NEAR', "namespace: ben\nstore this for ben", "line one\nline two", "x",
)  # fmt: skip
NAMESPACES = ("anna", "ben")
DIM = 12
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking histories takes minutes


def vector(n: int) -> np.ndarray:
    found = np.random.default_rng(n).normal(size=DIM).astype(np.float32)
    return found / np.linalg.norm(found)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A real PostgreSQL server of the tests' own."""
    pgserver = pytest.importorskip("pgserver")
    pytest.importorskip("psycopg")
    found = pgserver.get_server(str(tmp_path_factory.mktemp("pg")), cleanup_mode="stop")
    yield found
    found.cleanup()


class Contract(RuleBasedStateMachine):
    """`model[namespace][id]` is what a store must hold: text, kind, origins, version, key, searchable."""

    url, key_env, clean = "", "", staticmethod(lambda: None)

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        type(self).clean()
        self.address = self.url or str(self.folder / "m.sqlite")
        self.store = open_store(self.address, "e1", self.key_env)
        self.model: dict[str, dict[int, dict]] = {n: {} for n in NAMESPACES}
        self.numbers = itertools.count()

    def teardown(self) -> None:
        try:
            assert self.store.verify() == []
        finally:
            self.store.close()
            shutil.rmtree(self.folder)

    def same_as(self, namespace, text, kind, origins):
        place = lambda o: (o[0].get("session"), o[0].get("place")) if o and kind == "turn" else (None, None)  # noqa: E731
        for id, e in self.model[namespace].items():
            if (e["text"], e["kind"], e["searchable"]) == (text, kind, True) and place(e["origins"]) == place(origins):
                return id
        return None

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        items=st.lists(
            st.tuples(
                st.sampled_from(TEXTS),
                st.sampled_from(("note", "turn")),
                st.sampled_from(({}, {"who": "anna", "session": "s1", "place": 1}, {"source": "a.md", "line": 3})),
                st.booleans(),
            ),
            min_size=1,
            max_size=4,
        ),
    )
    def put(self, namespace, items):
        vectors = [vector(next(self.numbers)) if keyed else None for *_, keyed in items]
        written = self.store.put(
            namespace, [Item(t, kind, {"n": 1}, o, key) for (t, kind, o, _), key in zip(items, vectors, strict=True)]
        )
        new = 0
        for id, (text, kind, origin, _), key in zip(written.ids, items, vectors, strict=True):
            origins = [origin] if origin else []
            there = self.same_as(namespace, text, kind, origins)
            if there is None:
                assert not any(id in held for held in self.model.values())
                self.model[namespace][id] = {
                    "text": text, "kind": kind, "origins": origins, "version": 1, "key": key, "searchable": True,
                }  # fmt: skip
                new += 1
                continue
            assert there == id
            entry = self.model[namespace][id]
            entry["origins"] += [o for o in origins if o not in entry["origins"]]
            entry["key"] = entry["key"] if entry["key"] is not None else key
        assert written.new == new

    def some(self, namespace, n):
        ids = sorted(self.model[namespace])
        return ids[n % len(ids)] if ids else 10**9

    @rule(namespace=st.sampled_from(NAMESPACES), n=st.integers(0, 9), text=st.sampled_from(TEXTS), version=st.integers(0, 3))
    def edit(self, namespace, n, text, version):
        id, key = self.some(namespace, n), vector(next(self.numbers))
        entry = self.model[namespace].get(id)
        twin = entry and self.same_as(namespace, text, entry["kind"], entry["origins"])
        wrong = entry is None or (version and version != entry["version"]) or (twin is not None and twin != id)
        change = Item(text, entry["kind"] if entry else "note", {}, vector=key)
        if wrong:
            with pytest.raises(StoreError, match=r"no entry|is at version|says the same"):
                self.store.edit(namespace, id, change, version or None)
            return
        done = self.store.edit(namespace, id, change, version or None).entry
        entry |= {"text": text, "version": entry["version"] + 1, "key": key}
        assert (done.text, done.version, done.provenance) == (text, entry["version"], tuple(entry["origins"]))

    @rule(namespace=st.sampled_from(NAMESPACES), n=st.integers(0, 9))
    def forget_one(self, namespace, n):
        id = self.some(namespace, n)
        other = next(x for x in NAMESPACES if x != namespace)
        assert self.store.forget(other, [id]).entries == 0
        assert self.store.forget(namespace, [id, id]).entries == (self.model[namespace].pop(id, None) is not None)

    @rule(
        namespace=st.sampled_from(NAMESPACES),
        kinds=st.sampled_from(((), ("turn",))),
        words=st.sampled_from(("RED", "茶", "café", "zzz")),
    )
    def forget_where(self, namespace, kinds, words):
        held = self.model[namespace]
        gone = [i for i, e in held.items() if words.casefold() in e["text"].casefold() and e["kind"] in (kinds or (e["kind"],))]
        assert self.store.forget(namespace, where=Filter(kinds=kinds, contains=words)).entries == len(gone)
        for id in gone:
            del held[id]

    @rule(namespace=st.sampled_from(NAMESPACES))
    def forget_all_leaves_the_other_as_it_was(self, namespace):
        other = next(x for x in NAMESPACES if x != namespace)
        before = self.exported(other, "before")
        assert self.store.forget(namespace, everything=True).entries == len(self.model[namespace])
        self.model[namespace] = {}
        assert self.exported(other, "after") == before

    def exported(self, namespace, name):
        folder = self.folder / f"{name}{next(self.numbers)}"
        bundles.export(self.store, namespace, folder)
        return {p.name: p.read_bytes() for p in folder.iterdir()}

    @rule()
    def reopen(self):
        self.store.close()
        self.store = open_store(self.address, "e1", self.key_env)

    @rule(namespace=st.sampled_from(NAMESPACES))
    def export_and_import(self, namespace):
        folder = self.folder / f"x{next(self.numbers)}"
        bundles.export(self.store, namespace, folder)
        written = bundles.load(self.store, "copy", folder)
        assert written.new == len(self.model[namespace])
        assert bundles.load(self.store, "copy", folder).new == 0
        again = self.exported("copy", "again")
        assert again == {p.name: p.read_bytes() for p in folder.iterdir()}
        self.store.forget("copy", everything=True)

    @rule(
        namespace=st.sampled_from(NAMESPACES), n=st.integers(0, 50), k=st.integers(1, 6), only=st.sampled_from((None, "turn"))
    )
    def search_by_key(self, namespace, n, k, only):
        queries = np.stack([vector(n), vector(n + 1000)])
        where = Filter(kinds=(only,)) if only else None
        for query, hits in zip(queries, self.store.search(namespace, queries, k=k, where=where), strict=True):
            fits = {
                i: float(e["key"] @ query)
                for i, e in self.model[namespace].items()
                if e["key"] is not None and only in (None, e["kind"])
            }
            assert [h.entry.id for h in hits] == sorted(fits, key=lambda i: -fits[i])[:k]
            assert [h.similarity for h in hits] == pytest.approx([fits[h.entry.id] for h in hits], abs=1e-5)

    @rule(namespace=st.sampled_from(NAMESPACES), text=st.sampled_from((*TEXTS, "绿", "cafe", "RIVER house")))
    def search_by_word(self, namespace, text):
        (hits,) = self.store.search(namespace, texts=[text], k=99)
        wanted = query_terms(text)

        def fits(own):
            return any(t in own or (t.endswith("*") and any(o.startswith(t[:-1]) for o in own)) for t in wanted)

        assert {h.entry.id for h in hits} == {i for i, e in self.model[namespace].items() if fits(terms(e["text"]))}
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
        both = self.store.search(namespace, vector(1)[None], [text], k=99)[0]
        assert {h.entry.id for h in both} <= set(self.model[namespace])

    @precondition(lambda self: any(self.model.values()))
    @rule(namespace=st.sampled_from(NAMESPACES))
    def another_encoder_sees_no_key_of_ours(self, namespace):
        other = open_store(self.address, "e2", self.key_env)
        assert other.search(namespace, vector(1)[None]) == [[]]
        ids = [e.id for e in other.without_vector(namespace)]
        assert ids == sorted(self.model[namespace])
        if ids:
            texts = [self.model[namespace][i]["text"] for i in ids]
            stale = ["another text", *texts[1:]]  # the first one was edited meanwhile
            assert other.add_vectors(namespace, ids, stale, np.stack([vector(i) for i in ids])) == len(ids) - 1
            assert other.add_vectors(namespace, ids, texts, np.stack([vector(i) for i in ids])) == 1
            assert other.search(namespace, vector(ids[0])[None], k=1)[0][0].entry.id == ids[0]
        ours = {i for i, e in self.model[namespace].items() if e["key"] is not None}
        assert {e.id for e in self.store.without_vector(namespace)} == set(self.model[namespace]) - ours
        self.store.fingerprint = "e1"
        assert self.store.retire(namespace).entries == len(ids)
        other.close()

    @invariant()
    def holds_what_the_model_holds(self):
        for namespace, held in self.model.items():
            found = self.store.list(namespace)
            assert [(e.id, e.text, e.kind, list(e.provenance), e.version) for e in found] == [
                (i, e["text"], e["kind"], e["origins"], e["version"]) for i, e in sorted(held.items())
            ]
            pages = [self.store.list(namespace, after=a, limit=1) for a in (0, *(e.id for e in found))]
            assert [p[0].id for p in pages if p] == [e.id for e in found]
            other = next(x for x in NAMESPACES if x != namespace)
            assert self.store.get(other, list(held)) == []
            assert [e.id for e in self.store.get(namespace, list(held))] == sorted(held)


def run(**attributes) -> None:
    machine = type("Machine", (Contract,), attributes)
    profile = settings(
        max_examples=attributes.get("examples", 25), stateful_step_count=20, deadline=None, phases=PHASES, report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )  # fmt: skip
    machine.TestCase.settings = profile
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(machine, settings=profile)


def test_sqlite():
    run()


def test_sqlite_with_codes_from_the_first_key_on(monkeypatch):
    monkeypatch.setattr("memgpt_cli.store.sqlite.vectors.EXACT_ROWS", 0)
    run()


def test_sqlite_encrypted(monkeypatch):
    monkeypatch.setenv("TEST_KEY", "correct horse")
    run(key_env="TEST_KEY", examples=6)


def test_postgres(server):
    run(url=server.get_uri(), clean=staticmethod(lambda: server.psql("DROP SCHEMA IF EXISTS memgpt CASCADE")), examples=8)


def test_postgres_sealed(server, monkeypatch, tmp_path):
    monkeypatch.setenv("TEST_KEY", "correct horse")
    monkeypatch.setenv("MEMGPT_KEYS", str(tmp_path / "keys"))
    clean = staticmethod(lambda: server.psql("DROP SCHEMA IF EXISTS memgpt CASCADE"))
    run(url=server.get_uri(), key_env="TEST_KEY", clean=clean, examples=5)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    if request.param == "sqlite":
        address = str(tmp_path / "m.sqlite")
    else:
        server = request.getfixturevalue("server")
        server.psql("DROP SCHEMA IF EXISTS memgpt CASCADE")
        address = server.get_uri()
    with open_store(address, "e") as found:
        yield found


def test_limits_refuse_or_forget_the_oldest(store):
    store.set_limits("n", Limits(max_entries=3))
    store.put("n", [Item(f"entry {i}", vector=vector(i)) for i in range(3)])
    with pytest.raises(StoreError, match="would hold 4 entries of at most 3: nothing was kept"):
        store.put("n", [Item("one too many")])
    assert len(store.list("n")) == 3
    store.set_limits("n", Limits(max_entries=3, on_full="forget_oldest"))
    assert store.put("n", [Item("new")]).forgotten == 1
    assert [e.text for e in store.list("n")] == ["entry 1", "entry 2", "new"]
    with pytest.raises(StoreError, match="would hold 4 entries"):
        store.put("n", [Item(f"batch {i}") for i in range(4)])
    store.set_limits("n", Limits(max_bytes=14, on_full="forget_oldest"))
    store.put("n", [Item("茶茶")])
    assert [e.text for e in store.list("n")] == ["new", "茶茶"] or [e.text for e in store.list("n")] == ["茶茶"]
    assert store.stats("n").text_bytes <= 14
    store.set_limits("n", Limits())
    store.put("other", [Item(f"entry {i}") for i in range(9)])
    assert len(store.list("other")) == 9
    assert store.verify() == []


def test_what_is_too_old_is_erased(store):
    from memgpt_cli.store import Row

    store.restore("n", [Row("old news", "note", {}, [], "2020-01-01T00:00:00+00:00", "2020-01-01T00:00:00+00:00")])
    store.put("n", [Item("new")])
    assert store.expire("n").entries == 0
    store.set_limits("n", Limits(max_age_days=30))
    assert store.expire("n").entries == 1
    assert [e.text for e in store.list("n")] == ["new"]


@pytest.mark.parametrize("bad", ["", "a\0b", "  \n", "half \ud800"])
def test_what_cannot_be_kept_is_refused_whole(store, bad):
    with pytest.raises(StoreError, match=r"empty|NUL or half"):
        store.put("n", [Item("good"), Item(bad)])
    assert store.list("n") == []


def test_dates_and_origins_are_asked_for(store):
    rows = []
    for n, (date, who) in enumerate([("2026-01-01", "anna"), ("2026-02-01", "ben"), ("2026-03-01", "anna")]):
        moment = f"{date}T12:00:00+00:00"
        origins = [{"who": who, "source": f"{n}.md", "line": 7}]
        rows.append(Row(f"entry {n}", "note", {}, origins, moment, moment, 1, True, {"e": vector(n)}))
    ids = store.restore("n", rows).ids

    def found(*conditions):
        where = Filter.parse(conditions)
        listed = [e.id for e in store.list("n", where)]
        assert sorted(h.entry.id for h in store.search("n", texts=["entry"], where=where)[0]) == listed
        assert sorted(h.entry.id for h in store.search("n", vector(0)[None], where=where)[0]) == listed
        return listed

    assert found("since=2026-02-01") == ids[1:]
    assert found("before=2026-02-01T12:00:00") == ids[:1]
    assert found("since=2026-01-15", "before=2026-02-15") == ids[1:2]
    assert found("who=anna") == [ids[0], ids[2]]
    assert found("who=anna", "source=2.md") == ids[2:]
    assert found("who=ben", "source=2.md") == []
    assert found("line=7", "text~ENTRY 1") == ids[1:2]
    assert store.forget("n", where=Filter.parse(["who=anna", "before=2026-02-01"])).entries == 1
    assert [e.id for e in store.list("n")] == ids[1:]


# a server besides


@pytest.fixture
def address(server):
    server.psql("DROP SCHEMA IF EXISTS memgpt CASCADE")
    return server.get_uri()


def test_postgres_without_pgvector(server, monkeypatch):
    """Vectors are bytes there, and compared by this program."""
    from memgpt_cli.store.postgres.server import Server

    monkeypatch.setattr(Server, "_has_pgvector", lambda self: False)
    clean = staticmethod(lambda: server.psql("DROP SCHEMA IF EXISTS memgpt CASCADE"))
    run(url=server.get_uri(), clean=clean, examples=3)
    with open_store(server.get_uri(), "e1") as opened:
        assert opened.capabilities().index == "this process, in RAM"


def test_many_write_to_a_server_at_once(address):
    from concurrent.futures import ThreadPoolExecutor

    def write(worker):
        with open_store(address, "e") as own:
            for n in range(15):
                own.put("n", [Item(f"entry {worker} {n}", vector=vector(n)), Item("the same for all")])
                if n % 5 == 4:
                    own.forget("n", [own.search("n", texts=[f"entry {worker} {n}"], k=1)[0][0].entry.id])

    open_store(address, "e").close()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with open_store(address, "e") as after:
        texts = [e.text for e in after.list("n")]
        assert len(texts) == len(set(texts)) == 4 * 12 + 1
        assert after.verify() == []


def test_a_killed_writer_leaves_a_whole_server(address):
    import signal
    import subprocess
    import sys

    code = (
        "import sys, itertools; from memgpt_cli.store import Item, open_store\n"
        "store = open_store(sys.argv[1], 'e')\n"
        "for n in itertools.count():\n"
        "    print(store.put('n', [Item(f'entry {n} {k}') for k in range(20)]).ids[-1], flush=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE, text=True)
    acknowledged = [int(process.stdout.readline()) for _ in range(5)]
    process.send_signal(signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    process.stdout.close()
    with open_store(address, "e") as after:
        assert len(after.get("n", acknowledged)) == len(acknowledged)
        assert after.stats("n").entries % 20 == 0, "a call is kept whole or not at all"
        assert after.verify() == []


def test_a_lost_connection_is_said(address, server):
    with open_store(address, "e") as own:
        own.put("n", [Item("x")])
        server.psql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='memgpt'")
        with pytest.raises(StoreError, match="could not be"):
            own.put("n", [Item("y")])
    with open_store(address, "e") as again:
        assert [e.text for e in again.list("n")] == ["x"]


def test_what_is_left_out_of_a_filter_stays(store):
    ids = store.put("n", [Item(f"entry {n}") for n in range(4)]).ids
    where = Filter(kinds=("note",), without=frozenset(ids[:2]))
    assert [e.id for e in store.list("n", where)] == ids[2:]
    assert [h.entry.id for h in store.search("n", texts=["entry"], where=Filter(without=frozenset(ids[1:])))[0]] == ids[:1]
    assert store.forget("n", where=where).entries == 2
    assert [e.id for e in store.list("n")] == ids[:2]


def test_what_a_caller_wants_remembered_of_a_namespace(store):
    assert store.settings("n") == {}
    store.set_settings("n", {"run": "a", "deep": [1, {"x": "é"}]})
    store.put("m", [Item("x")])
    assert store.settings("n") == {"run": "a", "deep": [1, {"x": "é"}]}
    assert store.settings("m") == {}
    store.set_settings("n", {"run": "b"})
    assert store.settings("n") == {"run": "b"}
    store.forget("n", everything=True)
    store.put("n", [Item("y")])
    assert store.settings("n") == {}, "with the namespace's name all of it goes"
    assert store.verify() == []


def test_an_edit_says_what_had_to_make_room(store):
    ids = store.put("n", [Item("a" * 10), Item("b" * 10)]).ids
    store.set_limits("n", Limits(max_bytes=25, on_full="forget_oldest"))
    assert store.edit("n", ids[1], Item("c" * 20)).forgotten == 1
    assert [e.id for e in store.list("n")] == ids[1:]


def test_a_revision_changes_with_every_change(store):
    assert store.revision("n") == -1
    seen = []
    (id,) = store.put("n", [Item("x")]).ids
    for change in (
        lambda: None,
        lambda: store.edit("n", id, Item("y")),
        lambda: store.add_vectors("n", [id], ["y"], vector(1)[None]),
        lambda: store.forget("n", [id]),
    ):
        change()
        seen.append(store.revision("n"))
    assert len(set(seen)) == 4


def test_bad_keys_and_names_are_refused(store):
    store.put("n", [Item("a", vector=vector(1))])
    for key, said in ((vector(1)[:5], "5 numbers"), (np.full(DIM, np.nan), "no number"), (np.zeros((2, 2)), "expected")):
        with pytest.raises(StoreError, match=said):
            store.put("n", [Item("b", vector=key)])
    with pytest.raises(StoreError, match="cannot be a namespace"):
        store.put("", [Item("b")])
    with pytest.raises(StoreError, match="must be JSON"):
        store.put("n", [Item("b", meta={"x": object()})])
    with pytest.raises(StoreError, match=r"expected \[Q, 12\]"):
        store.search("n", vector(1)[None, :5])
    assert [e.text for e in store.list("n")] == ["a"]


def test_every_query_finds_its_chinese_text(store):
    """Plain full-text search finds none of these."""
    notes = ["昨天我们在北京见了王老师", "他最喜欢的电影是《七武士》", "下周三下午三点开会", "护照放在书房左边的抽屉里", "妈妈的生日是五月六号",
             "카페에서 만나요 내일", "明日の会議は東京駅の近くです"]  # fmt: skip
    store.put("n", [Item(n) for n in notes])
    for query, n in (
        ("北京", 0),
        ("七武士是谁拍的", 1),
        ("下午开会", 2),
        ("护照在哪里", 3),
        ("生日", 4),
        ("카페", 5),
        ("東京駅", 6),
    ):
        assert store.search("n", texts=[query], k=1)[0][0].entry.text == notes[n], query
    assert store.search("n", texts=["书"], k=3)[0][0].entry.text == notes[3]


def test_fusing_finds_what_either_ranking_finds(store):
    store.put("n", [Item(f"filler number {i}", vector=vector(100 + i)) for i in range(30)])
    store.put("n", [Item("the word is plugh", vector=vector(1)), Item("something else entirely", vector=vector(2))])
    hits = store.search("n", vector(2)[None], ["plugh"], k=2)[0]
    assert {h.entry.text for h in hits} == {"the word is plugh", "something else entirely"}


def test_what_only_repeats_is_kept_but_never_found(store):
    store.put("n", [Item("silent words", vector=vector(1), searchable=False)])
    assert store.search("n", vector(1)[None], ["silent"]) == [[]]
    assert store.without_vector("n") == []
    assert [e.text for e in store.list("n")] == ["silent words"]
    assert store.forget("n", where=Filter(contains="silent")).entries == 1
    assert store.verify() == []
