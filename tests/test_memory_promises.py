"""What the embedded store promises, each with a way to fail: durability, physical forgetting, encryption, many processes."""

import json
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import apsw
import numpy as np
import pytest

from memgpt_cli.errors import StoreError, UsageError
from memgpt_cli.store import Filter, Item, Limits, open_store
from memgpt_cli.store.index import Codebook, CodedIndex, Codes, make_rotation
from memgpt_cli.store.sqlite.file import clear_unused
from memgpt_cli.store.sqlite.store import SqliteStore


def vector(n: int, dim: int = 128) -> np.ndarray:
    found = np.random.default_rng(n).normal(size=dim).astype(np.float32)
    return found / np.linalg.norm(found)


def on_disk(folder: Path) -> bytes:
    return b"".join(p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


@pytest.fixture
def store(tmp_path):
    with open_store(str(tmp_path / "m.sqlite"), "e") as found:
        yield found


# 1. no acknowledged write is lost


def write_until_killed(path: str, seed: int, acknowledged: str) -> None:
    """Puts, edits and forgets at random; every finished operation is a line in the file `acknowledged`."""
    rng = random.Random(seed)
    store = open_store(path, "e")
    log = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    note = lambda *what: os.write(log, (json.dumps(what) + "\n").encode())  # noqa: E731
    mine: list[int] = []
    n = 0
    while True:
        n += 1
        what = rng.random()
        if what < 0.6 or not mine:
            texts = [f"w{seed} n{n} i{i} " + "x" * rng.randrange(300) for i in range(rng.choice((1, 1, 20)))]
            note("begin-put", None, texts)
            ids = store.put("n", [Item(t, vector=vector(n)) for t in texts]).ids
            note("put", ids, texts)
            mine += ids
        elif what < 0.75:
            id, text = rng.choice(mine), f"w{seed} n{n} edited"
            note("begin-edit", [id], [text])
            store.edit("n", id, Item(text, vector=vector(n)))
            note("edit", [id], [text])
        elif what < 0.95:
            gone = [mine.pop(rng.randrange(len(mine))) for _ in range(min(len(mine), 3))]
            note("begin-forget", gone, [])
            store.forget("n", gone)
            note("forget", gone, [])
        else:
            store._db.checkpoint(wait=False)


def check_acknowledged(store, logs: list[Path]) -> int:
    """Every acknowledged operation is there; one that was under way is there whole or not at all."""
    found = {e.id: e.text for e in store.all("n")}
    known: set[str] = set()
    count = 0
    for log in logs:
        must: dict[int, str] = {}
        gone: set[int] = set()
        maybe: dict[int, set[str | None]] = {}
        unfinished: list[str] = []
        for line in log.read_text().splitlines():
            what, ids, texts = json.loads(line)
            count += not what.startswith("begin")
            if what == "begin-put":
                unfinished = texts
            elif what == "put":
                unfinished = []
                must.update(zip(ids, texts, strict=True))
            elif what == "begin-edit":
                maybe[ids[0]] = {must[ids[0]], texts[0]}
            elif what == "edit":
                maybe.pop(ids[0])
                must[ids[0]] = texts[0]
            elif what == "begin-forget":
                maybe.update({i: {must[i], None} for i in ids})
            else:
                gone.update(ids)
                for i in ids:
                    maybe.pop(i)
                    must.pop(i)
        for id, text in must.items():
            assert found.get(id) in maybe.get(id, {text}), f"{log.name}: entry {id} should be {text[:30]!r}"
        assert not gone & set(found), f"{log.name}: forgotten entries are back"
        present = [t in found.values() for t in unfinished]
        assert all(present) or not any(present), f"{log.name}: half a put"
        known |= set(must.values()) | {t for texts in maybe.values() for t in texts if t} | set(unfinished)
    assert set(found.values()) <= known
    return count


def kill_writers(folder: Path, kills: int, writers: int) -> int:
    """Starts writers, kills them at random, checks; returns how many operations were acknowledged."""
    context = multiprocessing.get_context("spawn")
    rng = random.Random(1)
    path, count = folder / "m.sqlite", 0
    logs: list[Path] = []
    for round in range(kills // writers):
        new = [folder / f"log-{round}-{w}" for w in range(writers)]
        processes = [
            context.Process(target=write_until_killed, args=(str(path), 100 * round + w, str(new[w]))) for w in range(writers)
        ]
        for p in processes:
            p.start()
        deadline = time.monotonic() + 60
        while not all(n.exists() and n.stat().st_size for n in new) and time.monotonic() < deadline:
            time.sleep(0.01)
        for p in processes:
            time.sleep(rng.uniform(0.02, 0.5))
            assert p.is_alive(), "a writer ended by itself"
            os.kill(p.pid, signal.SIGKILL)
            p.join()
        logs += new
        with open_store(str(path), "e") as store:
            assert store.verify() == []
            count = check_acknowledged(store, logs)
    return count


def test_killed_writers_lose_nothing(tmp_path):
    assert kill_writers(tmp_path, kills=4, writers=2) > 20


@pytest.mark.slow
def test_forty_eight_kills_lose_nothing(tmp_path):
    assert kill_writers(tmp_path, kills=48, writers=3) > 1000


def test_a_torn_log_leaves_the_state_before(store, tmp_path):
    for n in range(20):
        store.put("n", [Item(f"entry {n}", vector=vector(n))])
    copy = tmp_path / "copy"
    copy.mkdir()
    log = (tmp_path / "m.sqlite-wal").read_bytes()
    frame = 8192 + 24
    for cut in (len(log) - 1, len(log) - frame // 2, len(log) - 5 * frame - 7, 32 + 100, 10, 0):
        (copy / "m.sqlite").write_bytes((tmp_path / "m.sqlite").read_bytes())
        (copy / "m.sqlite-wal").write_bytes(log[:cut])
        try:
            with open_store(str(copy / "m.sqlite"), "e") as torn:
                found = [e.text for e in torn.list("n")]
                assert found == [f"entry {n}" for n in range(len(found))]
                assert len(found) < 20
                assert torn.verify() == []
                torn.put("n", [Item("afterwards")])
        finally:
            for p in copy.iterdir():
                p.unlink()


def test_a_full_disk_is_named_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "m.sqlite"
    with open_store(str(path), "e") as store:
        ids = store.put("n", [Item(f"entry {n} " + "x" * 500, vector=vector(n)) for n in range(50)]).ids
    code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from memgpt_cli.store import Item, open_store
from memgpt_cli.errors import StoreError
store = open_store({str(path)!r}, "e")
resource.setrlimit(resource.RLIMIT_FSIZE, ({path.stat().st_size + 100_000}, resource.RLIM_INFINITY))
try:
    for n in range(1000):
        store.put("n", [Item(f"more {{n}} {{i}} " + "y" * 500) for i in range(50)])
except StoreError as error:
    print("SAID", error)
print("LEFT", len(store.list("n", limit=10**6)), store.verify())
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the disk is full" in out.stdout or "disk I/O error" in out.stdout, out.stdout + out.stderr
    assert "Traceback" not in out.stderr
    with open_store(str(path), "e") as store:
        assert [e.id for e in store.get("n", ids)] == ids
        assert len(store.list("n", limit=10**6)) % 50 == 0  # every put whole or not at all
        assert store.verify() == []
        store.put("n", [Item("there is room again")])
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


# 2. forgetting is physical


def traces(n: int, text: str) -> list[bytes]:
    return [text.encode(), vector(n).tobytes(), f"zanzibar{n}plugh".encode(), f"origin-{n}-x".encode()]


@pytest.mark.parametrize("coded", [False, True])
def test_no_byte_of_what_is_forgotten_is_left(store, tmp_path, monkeypatch, coded):
    if coded:
        monkeypatch.setattr("memgpt_cli.store.sqlite.vectors.EXACT_ROWS", 10)
    texts = {n: f"zanzibar{n}plugh said something 北{chr(0x4E00 + n)}京 " + "x" * (n % 97) for n in range(200)}
    items = [Item(t, vector=vector(n), provenance={"source": f"origin-{n}-x"}) for n, t in texts.items()]
    ids = dict(zip(texts, store.put("n", items).ids, strict=True))
    store.search("n", vector(1)[None], ["plugh"])  # everything that is ever written is written
    before = on_disk(tmp_path)
    assert all(trace in before for n, t in texts.items() for trace in traces(n, t))
    codes = {n: store._db.connection.execute("SELECT code FROM codes WHERE id=?", (ids[n],)).get for n in texts}
    gone = [n for n in texts if n % 3 == 0]
    assert store.forget("n", [ids[n] for n in gone]).state == "erased"
    left = on_disk(tmp_path)
    for n in gone:
        for trace in traces(n, texts[n]):
            assert trace not in left, (n, trace)
        assert not coded or codes[n][12:] not in left
    kept = next(n for n in texts if n % 3)
    assert all(trace in left for trace in traces(kept, texts[kept]))
    assert not coded or codes[kept][12:] in left
    hits = store.search("n", vector(3)[None], ["zanzibar3plugh"], k=200)[0]
    assert not {h.entry.id for h in hits} & {ids[n] for n in gone}


def test_no_copy_survives_in_pages_that_sqlite_wrote_anew(store, tmp_path):
    """Rows move between pages, and terms separate the pages of the index of words: neither may keep what is forgotten."""
    for seed in range(2):
        namespace, rng = f"n{seed}", random.Random(seed)
        text = lambda n: f"zanzibar{seed}q{n}plugh " + "x" * rng.randrange(20, 3000)  # noqa: B023, E731
        held = dict(enumerate(store.put(namespace, [Item(text(n)) for n in range(1000)]).ids))
        gone: list[int] = []
        for _ in range(5):
            some = rng.sample(sorted(held), 120)
            store.forget(namespace, [held.pop(n) for n in some])
            gone += some
            for n in rng.sample(sorted(held), 40):
                store.edit(namespace, held[n], Item(text(n)))
            more = range(len(held) + len(gone), len(held) + len(gone) + 60)
            held.update(zip(more, store.put(namespace, [Item(text(n)) for n in more]).ids, strict=True))
        left = on_disk(tmp_path)
        assert not [n for n in gone if f"zanzibar{seed}q{n}plugh".encode() in left]
        assert all(f"zanzibar{seed}q{n}plugh".encode() in left for n in held)
        assert store.verify() == []


def test_a_term_that_separated_pages_of_the_index_is_not_left(store, tmp_path):
    ids = store.put("n", [Item(f"zanzibar{n:05}plugh") for n in range(1500)]).ids
    separators = [t for (t,) in store._db.connection.execute("SELECT term FROM words_idx WHERE term<>x''")]
    assert len(separators) > 3
    named = sorted({int(t.decode().partition("zanzibar")[2][:5].ljust(5, "0")) for t in separators})
    for n in named:
        near = [i for i in (n, n - 1, n + 1) if 0 <= i < 1500]
        assert store.forget("n", [ids[i] for i in near]).state == "erased"
        left = on_disk(tmp_path)
        assert not [i for i in near if f"zanzibar{i:05}plugh".encode() in left]
    assert store.verify() == []


def test_forgetting_very_many_at_once(store, tmp_path):
    store.put("n", [Item(f"zanzibar{n}plugh") for n in range(3000)])
    store.put("n", [Item("kept words")])
    assert store.forget("n", where=Filter(contains="zanzibar")).entries == 3000
    assert b"plugh" not in on_disk(tmp_path)
    assert store.search("n", texts=["kept"])[0][0].entry.text == "kept words"
    assert store.verify() == []


def test_all_of_a_namespace_goes_with_its_name(store, tmp_path):
    store.put("anna-the-secret-namespace", [Item("zanzibar", vector=vector(1))])
    store.put("ben", [Item("kept")])
    assert b"secret-namespace" in on_disk(tmp_path)
    assert store.forget("anna-the-secret-namespace", everything=True).state == "erased"
    left = on_disk(tmp_path)
    assert b"secret-namespace" not in left
    assert b"zanzibar" not in left
    assert b"kept" in left


def test_edited_and_retired_bytes_are_gone_too(store, tmp_path):
    (id,) = store.put("n", [Item("old words xyzzy", vector=vector(1))]).ids
    store.edit("n", id, Item("new words", vector=vector(2)))
    assert b"xyzzy" not in on_disk(tmp_path)
    assert vector(1).tobytes() not in on_disk(tmp_path)
    with open_store(str(tmp_path / "m.sqlite"), "e2") as other:
        other.add_vectors("n", [id], ["new words"], vector(3)[None])
        assert store.search("n", vector(2)[None])[0][0].similarity == pytest.approx(1)  # the old key goes on serving
        assert other.retire("n").entries == 1
    assert vector(2).tobytes() not in on_disk(tmp_path)


def test_a_reader_in_the_way_makes_it_pending_until_compact(store, tmp_path):
    ids = store.put("n", [Item("zanzibar"), Item("kept")]).ids
    reader = apsw.Connection(str(tmp_path / "m.sqlite"))  # the same library: two SQLites in a process ignore each other's locks
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM entries").fetchone()
    receipt = store.forget("n", ids[:1])
    assert (receipt.state, receipt.entries) == ("pending", 1)
    assert "memgpt memory compact" in receipt.reason
    assert [e.text for e in store.list("n")] == ["kept"]
    assert store.stats("n").erasure_pending
    assert b"zanzibar" in on_disk(tmp_path)
    reader.close()
    assert store.compact().state == "erased"
    assert b"zanzibar" not in on_disk(tmp_path)
    assert not store.stats("n").erasure_pending


def test_what_is_pending_stays_so_until_it_is_erased(store, tmp_path, monkeypatch):
    """Another process deletes between our erasing and our saying so."""
    mine, others = store.put("n", [Item("mine"), Item("zanzibar")]).ids
    with open_store(str(tmp_path / "m.sqlite"), "e") as other:
        erase = store._db.erase

        def erased_and_then() -> bool:
            done = erase()
            monkeypatch.setattr(other._db, "erase", lambda: False)
            assert other.forget("n", [others]).state == "pending"
            return done

        monkeypatch.setattr(store._db, "erase", erased_and_then)
        assert store.forget("n", [mine]).state == "erased"
        monkeypatch.setattr(store._db, "erase", erase)
        assert store.stats("n").erasure_pending
        assert b"zanzibar" in on_disk(tmp_path)
    assert store.compact().state == "erased"
    assert b"zanzibar" not in on_disk(tmp_path)


def test_what_cannot_be_erased_is_pending_not_an_error(store, monkeypatch):
    """The deletion is done by then: an error would say that nothing was changed."""
    (id,) = store.put("n", [Item("zanzibar")]).ids

    def full() -> bool:
        raise StoreError("the disk is full")

    monkeypatch.setattr(store._db, "erase", full)
    receipt = store.forget("n", [id])
    assert (receipt.state, receipt.entries) == ("pending", 1)
    assert "the disk is full" in receipt.reason
    assert "the disk is full" in store.edit("n", store.put("n", [Item("x")]).ids[0], Item("y")).pending


def test_replies_that_only_repeat_go_with_what_they_repeat(store, tmp_path):
    (id,) = store.put("n", [Item("zanzibar plugh")]).ids
    echo = Item("bot: zanzibar plugh", "turn", {"repeats": "zanzibar plugh"}, {"session": "s", "place": 1}, searchable=False)
    store.put("n", [echo, Item("kept")])
    assert store.forget("n", [id]).entries == 2
    assert b"plugh" not in on_disk(tmp_path)
    assert [e.text for e in store.list("n")] == ["kept"]
    assert store.verify() == []


def test_nothing_to_retire_leaves_nothing_pending(store):
    store.put("n", [Item("x", vector=vector(1))])
    assert store.retire("n").entries == 0
    assert not store.stats("n").erasure_pending


def test_an_edit_does_not_load_the_index_anew(store, monkeypatch):
    monkeypatch.setattr("memgpt_cli.store.sqlite.vectors.EXACT_ROWS", 20)
    ids = store.put("n", [Item(f"entry {n}", vector=vector(n)) for n in range(50)]).ids
    store.search("n", vector(1)[None])
    monkeypatch.setattr(store._index, "_load", lambda *_: pytest.fail("loaded anew"))
    for n in range(5):
        store.edit("n", ids[n], Item(f"again {n}", vector=vector(1000 + n)))
        assert store.search("n", vector(1000 + n)[None], k=1)[0][0].entry.text == f"again {n}"


@pytest.mark.parametrize(
    ("condition", "moment"),
    [
        ("20260131", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31", "2026-01-31T00:00:00+00:00"),
        ("2026-01-31 12:00", "2026-01-31T12:00:00+00:00"),
        ("2026-01-31T01:30+02:00", "2026-01-30T23:30:00+00:00"),
    ],
)
def test_dates_are_compared_as_dates(condition, moment):
    assert Filter.parse([f"before={condition}"]).before == moment
    with pytest.raises(UsageError, match="is no date"):
        Filter.parse(["since=yesterday"])


def test_passwords_are_never_shown():
    from memgpt_cli.store.url import without_password

    shown = without_password("postgresql://anna:hunter2@host/db?sslmode=require&password=hunter2&sslpassword=hunter2")
    assert shown == "postgresql://anna@host/db?sslmode=require"


def test_unused_bytes_of_a_page_are_cleared_and_no_others():
    db = sqlite3.connect(":memory:")
    db.execute("PRAGMA page_size=1024")
    db.execute("CREATE TABLE t (a)")
    db.executemany("INSERT INTO t VALUES (?)", [("x" * n,) for n in range(0, 100, 7)])
    db.execute("DELETE FROM t WHERE rowid % 2")
    whole = db.serialize()
    cleared = b"".join(clear_unused(whole[n : n + 1024]) for n in range(0, len(whole), 1024))
    assert cleared != whole
    again = sqlite3.connect(":memory:")
    again.deserialize(cleared)
    assert again.execute("SELECT * FROM t").fetchall() == db.execute("SELECT * FROM t").fetchall()
    assert again.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_compact_makes_codes_anew_and_gives_space_back(store, tmp_path, monkeypatch):
    monkeypatch.setattr("memgpt_cli.store.sqlite.vectors.EXACT_ROWS", 50)
    store.put("n", [Item(f"entry {n} " + "x" * 300, vector=vector(n)) for n in range(900)])
    store.forget("n", [e.id for e in store.list("n")][60:])
    before = (tmp_path / "m.sqlite").stat().st_size
    assert store.compact().state == "erased"
    assert (tmp_path / "m.sqlite").stat().st_size < before / 2
    assert store.search("n", vector(5)[None], k=1)[0][0].entry.text.startswith("entry 5 ")
    assert store.verify() == []


# 4. encryption


def test_nothing_is_readable_without_the_key(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SECRET", "correct horse battery")
    path = str(tmp_path / "m.sqlite")
    with open_store(path, "e", "SECRET") as store:
        (id, *_) = store.put("anna", [Item("zanzibar plugh", vector=vector(1)), Item("kept")]).ids
        assert store.capabilities().encrypted
        assert store.search("anna", vector(1)[None], ["plugh"])[0][0].entry.text == "zanzibar plugh"
        for trace in (b"zanzibar", b"plugh", b"anna", b"entries", b"correct horse", vector(1).tobytes()):
            assert trace not in on_disk(tmp_path)
        assert store.forget("anna", [id]).state == "erased"
        store.snapshot(tmp_path / "copy.sqlite")
    for trace in (b"zanzibar", b"kept", b"entries", b"correct horse"):
        assert trace not in on_disk(tmp_path)
    monkeypatch.setenv("SECRET", "wrong")
    with pytest.raises(StoreError, match="its key is another one") as error:
        open_store(path, "e", "SECRET")
    assert "\n" not in str(error.value)
    assert "wrong" not in str(error.value)
    with pytest.raises(StoreError, match="it is encrypted .*key_env"):
        open_store(path, "e")
    with pytest.raises(UsageError, match="NOT_SET, which is not set"):
        open_store(path, "e", "NOT_SET")
    monkeypatch.setenv("SECRET", "correct horse battery")
    with open_store(str(tmp_path / "copy.sqlite"), "e", "SECRET") as copy:
        assert [e.text for e in copy.list("anna")] == ["kept"]
    assert "correct horse" not in "".join(capfd.readouterr())


def test_a_sqlite_that_cannot_encrypt_is_refused(tmp_path, monkeypatch):
    """The plain `apsw` has the same name, takes a key and ignores it."""
    from memgpt_cli.store.sqlite import file

    class Plain(apsw.Connection):
        def pragma(self, name, *values):
            return None if name == "key" else super().pragma(name, *values)

    monkeypatch.setattr(file.apsw, "Connection", Plain)
    monkeypatch.setenv("SECRET", "x")
    with pytest.raises(StoreError, match="cannot encrypt"):
        open_store(str(tmp_path / "m.sqlite"), "e", "SECRET")


# 5. many processes


def work(path: str, worker: int, seconds: float, key_env: str, out) -> None:
    try:
        store = open_store(path, "e", key_env)
        until, n = time.monotonic() + seconds, 0
        while time.monotonic() < until:
            if worker % 2:
                n += store.put("n", [Item(f"worker {worker} entry {n} {i}", vector=vector(n)) for i in range(5)]).new
                if n % 50 == 0:
                    store.forget("n", [e.id for e in store.list("n", Filter(contains=f"worker {worker} "), limit=3)])
            else:
                hits = store.search("n", vector(n)[None], [f"entry {n}"], k=5)[0]
                assert all(h.entry.text.startswith("worker") for h in hits)
                n += 1
        store.close()
        out.put((worker, n, ""))
    except Exception as error:
        out.put((worker, 0, repr(error)))


@pytest.mark.parametrize("key_env", ["", "SECRET"])
def test_many_readers_and_writers_at_once(tmp_path, monkeypatch, key_env):
    monkeypatch.setenv("SECRET", "correct horse battery")
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    path = str(tmp_path / "m.sqlite")
    processes = [context.Process(target=work, args=(path, w, 2.5, key_env, out)) for w in range(6)]
    for p in processes:
        p.start()
    results = [out.get(timeout=90) for _ in processes]
    for p in processes:
        p.join()
    assert [error for *_, error in results if error] == []
    assert all(n for _, n, _ in results)
    with open_store(path, "e", key_env) as store:
        assert store.verify() == []
        assert store.compact().state == "erased"


def test_the_index_sees_what_other_processes_change(store, tmp_path, monkeypatch):
    monkeypatch.setattr("memgpt_cli.store.sqlite.vectors.EXACT_ROWS", 20)
    monkeypatch.setattr("memgpt_cli.store.sqlite.vectors.LOG_OF_CHANGES", 6)
    path = str(tmp_path / "m.sqlite")
    best = lambda s, n: [h.entry.text for h in s.search("n", vector(n)[None], k=1)[0]]  # noqa: E731
    with open_store(path, "e") as other:
        ids = other.put("n", [Item(f"entry {n}", vector=vector(n)) for n in range(30)]).ids
        assert best(store, 7) == ["entry 7"]
        other.put("n", [Item("entry 99", vector=vector(99))])
        assert best(store, 99) == ["entry 99"]
        other.edit("n", ids[7], Item("changed 7", vector=vector(777)))
        assert best(store, 777) == ["changed 7"]
        assert best(store, 7) != ["entry 7"]
        other.forget("n", [ids[7]])
        assert best(store, 777) != ["changed 7"]
        (late,) = other.put("n", [Item("without a key")]).ids
        other.put("n", [Item("entry 100", vector=vector(100))])
        assert best(store, 100) == ["entry 100"]
        other.add_vectors("n", [late], ["without a key"], vector(500)[None])
        assert best(store, 500) == ["without a key"]
        for n in range(10):  # more than the log of changes holds
            other.edit("n", ids[n + 10], Item(f"again {n}", vector=vector(2000 + n)))
        assert [best(store, 2000 + n) for n in range(10)] == [[f"again {n}"] for n in range(10)]
        other.forget("n", everything=True)
        assert store.search("n", vector(1)[None]) == [[]]
        other.put("n", [Item("fresh", vector=vector(1))])
        assert best(store, 1) == ["fresh"]


# the index


@pytest.mark.parametrize("dim", [16, 64, 100, 384])
def test_codes_find_what_an_exact_scan_finds(dim):
    rng = np.random.default_rng(dim)
    topics = rng.normal(size=(200, dim)) + 1.0  # all lean one way
    keys = topics[rng.integers(0, 200, 20_000)] + 0.7 * rng.normal(size=(20_000, dim))
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float32)
    queries = keys[:50] + 0.3 * rng.normal(size=(50, dim)).astype(np.float32) / np.sqrt(dim)
    book = Codebook.of(keys, make_rotation(dim))
    rows = book.encode(np.arange(len(keys)) * 3, keys)
    index = CodedIndex(book, Codes.of(rows[:15_000]))
    index.append(rows[15_000:])
    fetch = lambda ids: keys[ids // 3]  # noqa: E731
    found = index.search(queries, 8, None, fetch)
    truth = np.argsort(-(queries @ keys.T), axis=1)[:, :8] * 3
    recall = np.mean([np.isin(t, [id for id, _ in f]).mean() for t, f in zip(truth, found, strict=True)])
    assert recall > 0.97
    assert [id for id, _ in index.search(queries[:1], 8, None, fetch)[0]] == [id for id, _ in found[0]]
    allowed = np.arange(0, 60_000, 300)  # one in a hundred: recall does not suffer from a filter
    only = index.search(queries, 8, allowed, fetch)
    exact = allowed[np.argsort(-(queries @ keys[allowed // 3].T), axis=1)[:, :8]]
    assert [[id for id, _ in row] for row in only] == exact.tolist()  # so few are compared exactly
    index.remove(truth[0].tolist())
    assert not {id for id, _ in index.search(queries[:1], 8, None, fetch)[0]} & set(truth[0].tolist())


def test_equal_keys_are_found_in_the_order_they_came(store, monkeypatch):
    monkeypatch.setattr("memgpt_cli.store.sqlite.vectors.EXACT_ROWS", 5)
    ids = store.put("n", [Item(f"same {n}", vector=vector(1)) for n in range(5000)]).ids
    assert [h.entry.id for h in store.search("n", vector(1)[None], k=4)[0]] == ids[:4]


# what is wrong is said


def test_verify_finds_damage(store, tmp_path):
    store.put("n", [Item(f"entry {n}", vector=vector(n)) for n in range(5)])
    db = store._db.connection
    assert store.verify() == []
    for change, said in (
        ("UPDATE entries SET text='altered' WHERE id=1", "entry 1: its text is not what was stored"),
        ("DELETE FROM keys_1 WHERE id=2", "codes without a vector"),
        ("UPDATE namespaces SET entries=9", "noted [9"),
        ("DELETE FROM codes WHERE id=3", "vectors that search does not know"),
        ("DELETE FROM entries WHERE id=4", "belong to no entry"),
    ):
        db.execute(change)
        assert any(said in line for line in store.verify()), said


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "m.sqlite"
    with open_store(str(path), "e") as store:
        store.put("n", [Item(f"entry {n} " + "x" * 500) for n in range(100)])
    raw = bytearray(path.read_bytes())
    for page in range(3, len(raw) // 8192):
        raw[page * 8192 : page * 8192 + 400] = os.urandom(400)
    path.write_bytes(raw)
    said = []
    try:
        with open_store(str(path), "e") as store:
            said += store.verify()
            store.list("n")
    except StoreError as error:
        said.append(str(error))
    assert any("is damaged" in line or line.startswith("SQLite: ") for line in said), said


def test_what_is_no_store_is_named(tmp_path):
    (tmp_path / "x").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="or no store"):
        open_store(str(tmp_path / "x"))
    for version, said in (
        (99, "format 99, expected 4: a newer memgpt"),
        (1, "format 1, expected 4: .*import"),
        (0, "no memory store"),
    ):
        db = sqlite3.connect(tmp_path / f"v{version}")
        db.execute(f"PRAGMA user_version={version}")
        columns = {99: "ns, hash, searchable, provenance, text", 1: "text, kind, meta, created"}.get(version)
        db.execute(f"CREATE TABLE entries ({columns})" if columns else "CREATE TABLE t (a)")
        db.close()
        with pytest.raises(StoreError, match=said):
            open_store(str(tmp_path / f"v{version}"))
    for url, said in (("mysql://x/y", "expected a path"), ("sqlite://x", "three slashes")):
        with pytest.raises(UsageError, match=said):
            open_store(url)


def test_a_file_of_somebody_elses_stays_as_it_is(tmp_path):
    path = tmp_path / "theirs.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE t (a)")
    db.commit()
    db.close()
    path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="no memory store"):
        open_store(str(path))
    assert path.read_bytes() == before
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    with pytest.raises(StoreError, match="no memory store at"):
        open_store(str(tmp_path / "typo.sqlite"), create=False)
    assert not (tmp_path / "typo.sqlite").exists()


def test_urls_and_permissions(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMGPT_HOME", str(tmp_path / "home"))
    with open_store() as store:
        store.put("n", [Item("x")])
    assert stat.S_IMODE(os.stat(tmp_path / "home" / "memory.sqlite").st_mode) == 0o600
    for file in (tmp_path / "home").iterdir():
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077
    with open_store(f"sqlite:///{tmp_path}/home/memory.sqlite") as store:
        assert len(store.list("n")) == 1
    monkeypatch.chdir(tmp_path)
    with open_store("sqlite:///here.sqlite") as store:
        assert isinstance(store, SqliteStore)
    assert (tmp_path / "here.sqlite").exists()


def test_a_snapshot_is_whole_and_replaces_nothing(store, tmp_path):
    store.put("n", [Item("one", vector=vector(1))])
    store.set_limits("n", Limits(max_entries=5))
    store.snapshot(tmp_path / "copy.sqlite")
    store.put("n", [Item("two")])
    with open_store(str(tmp_path / "copy.sqlite"), "e") as copy:
        assert [e.text for e in copy.list("n")] == ["one"]
        assert copy.limits("n").max_entries == 5
        assert copy.verify() == []
    with pytest.raises(StoreError, match="is there already"):
        store.snapshot(tmp_path / "copy.sqlite")


def test_a_sealed_server_keeps_nothing_readable(tmp_path, monkeypatch):
    pgserver = pytest.importorskip("pgserver")
    pytest.importorskip("psycopg")
    monkeypatch.setenv("SECRET", "correct horse battery")
    monkeypatch.setenv("MEMGPT_KEYS", str(tmp_path / "keys"))
    server = pgserver.get_server(str(tmp_path / "pg"), cleanup_mode="delete")
    try:
        url = server.get_uri()
        with open_store(url, "e", "SECRET") as store:
            ids = store.put("anna-secret", [Item("zanzibar plugh", vector=vector(1)), Item("kept words", vector=vector(2))]).ids
            assert store.search("anna-secret", vector(1)[None], ["plugh"])[0][0].entry.text == "zanzibar plugh"
            receipt = store.forget("anna-secret", ids[:1])
            assert receipt.state == "pending"
            assert store.stats("anna-secret").erasure_pending
            old = {p.name: p.read_bytes() for p in (tmp_path / "keys").iterdir()}
            assert store.compact().state == "erased"
            assert not {p.name for p in (tmp_path / "keys").iterdir()} & set(old)  # sealed anew, the old key destroyed
            assert store.search("anna-secret", vector(2)[None], ["kept"])[0][0].entry.text == "kept words"
            assert store.verify() == []
            server.psql("CHECKPOINT")
            files = on_disk(tmp_path / "pg")
            for trace in (b"zanzibar", b"plugh", b"kept words", b"anna-secret", vector(1).tobytes(), b"correct horse"):
                assert trace not in files
            server.psql("UPDATE memgpt.namespaces SET terms='of another rule'; UPDATE memgpt.entries SET terms='{}'")
            assert store.search("anna-secret", texts=["word"]) == [[]]
        for keys in (
            "others",
            "keys",
        ):  # who has no key of a namespace opens the store all the same, and leaves it to whoever has
            monkeypatch.setenv("MEMGPT_KEYS", str(tmp_path / keys))
            with open_store(url, "e", "SECRET") as store:
                if keys == "keys":
                    assert store.search("anna-secret", texts=["word"])[0][0].entry.text == "kept words"
        with open_store(url, "e", "SECRET") as store:
            assert store.forget("anna-secret", everything=True).state == "erased"
            assert not list((tmp_path / "keys").iterdir())
            store.put("anna-secret", [Item("back again")])
            for p in (tmp_path / "keys").iterdir():
                p.unlink()
            with pytest.raises(StoreError, match="was destroyed"):
                store.list("anna-secret")
        monkeypatch.setenv("SECRET", "wrong")
        with pytest.raises(StoreError, match="was sealed with another key"):
            open_store(url, "e", "SECRET")
        with pytest.raises(StoreError, match="is encrypted: name the environment variable"):
            open_store(url, "e")
        monkeypatch.setenv("SECRET", "correct horse battery")
        with open_store(url, "e", "SECRET") as store:
            store.put("ben", [Item("zanzibar")])
            monkeypatch.setattr(store, "_destroy_doomed", lambda: None)  # killed between the commit and the key's end
            store.forget("ben", everything=True)
        assert list((tmp_path / "keys").iterdir())
        with open_store(url, "e", "SECRET"):  # whoever opens it next ends it
            assert not list((tmp_path / "keys").iterdir())
        server.psql("DROP SCHEMA memgpt CASCADE")
        with open_store(url, "e") as store:
            (id,) = store.put("n", [Item("plain")]).ids
            assert store.forget("n", [id]).state == "pending"
            assert "log and backups" in store.compact().reason
            assert not store.stats("n").erasure_pending
        with pytest.raises(StoreError, match="is not encrypted"):
            open_store(url, "e", "SECRET")
    finally:
        server.cleanup()
