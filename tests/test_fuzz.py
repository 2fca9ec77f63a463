"""Malformed files, tampered runs, stores and exports, made by seed, through the whole command: one line of words, nothing lost.

`make test` runs a slice; `make test-slow` all of it: 600 files of data in both modes of `data.on_error`, 600 documents, 240 runs,
240 stores, 120 exports. A failure prints its seed; `-k` with that number runs it alone.
"""

import gzip
import hashlib
import json
import lzma
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import Said, Terminal
from test_files import everything

RAW = re.compile(
    r"Traceback|a fault of memgpt's|\[Errno|PYBIND|pybind|Internal:|\.cc\(|\.cpp|\.rs:|Arrow\w+|Error\(|<class |object at 0x|Aborted"
    r"|NoneType|not subscriptable|unexpected keyword|codec can't|partial-\d"
)
"""Words of libraries and of Python that no user should have to read."""
SECONDS = 10  # of processor time: more is a hang


def check(said: Said, began: float, what: object) -> None:
    assert said.code in (0, 1, 2), (what, said)
    assert not RAW.search(said.err + said.out), (what, said)
    assert said.code == 0 or said.err.startswith("memgpt: ") or said.out, (what, said)
    assert "\x1b" not in said.err + said.out, (what, said)
    assert time.process_time() - began < SECONDS, (what, "took too long")


# sound files of every format, and what can befall them

TEXT = [
    "the red house stands by a river",
    "anna keeps three grey cats there",
    "peter sings of old ships at night",
    "猫在哪里？",
    "x | y",
]


def rows(rng: random.Random, n: int) -> list[dict[str, object]]:
    return [
        {"input": f"{rng.choice(TEXT)} {k}", "target": f"answer {k}", "memory": [rng.choice(TEXT), ["a", "b", str(k)]]}
        for k in range(n)
    ]


def as_csv(rng: random.Random, n: int) -> bytes:
    return ("input,target\n" + "".join(f'"{r["input"]}",{r["target"]}\n' for r in rows(rng, n))).encode()


def as_parquet(rng: random.Random, n: int) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{k: v for k, v in r.items() if k != "memory"} for r in rows(rng, n)]), sink)
    return bytes(sink.getvalue().to_pybytes())


def squad(rng: random.Random, n: int) -> bytes:
    def qa(k: int) -> dict[str, object]:
        return {"id": str(k), "question": f"who ? {k}", "answers": [{"text": "anna", "answer_start": 0}]}

    paragraphs = [{"context": "anna keeps cats. " * 3, "qas": [qa(k)]} for k in range(n)]
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs[k : k + 2]} for k in range(0, n, 2)]}).encode()


def dialogues(rng: random.Random, n: int) -> bytes:
    said = [
        {
            "messages": [
                {"role": "user", "content": f"hello {k}"},
                {"role": "bot", "content": f"hi {k}", "knowledge": [["a", "b", "c"]]},
            ]
        }
        for k in range(n)
    ]
    return "".join(json.dumps(d) + "\n" for d in said).encode()


def kdconv(rng: random.Random, n: int) -> bytes:
    attrs = [{"name": "a", "attrname": "b", "attrvalue": "c"}]
    return json.dumps(
        [{"messages": [{"message": f"问{k}", "attrs": attrs}, {"message": f"答{k}"}]} for k in range(n)], indent=1
    ).encode()


def duconv(rng: random.Random, n: int) -> bytes:
    lines = [
        {"goal": [["a", "b", "c"]], "knowledge": [["d", "e", "f"]], "conversation": [f"a {k}", f"b {k}"]} for k in range(n)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def dialog_babi(rng: random.Random, n: int) -> bytes:
    return "".join(f"1 a R_b c{k}\n2 hello {k}\thi {k}\n3 thanks\tbye\n\n" for k in range(n)).encode()


def babi(rng: random.Random, n: int) -> bytes:
    return "".join(f"1 anna went to room{k}.\n2 where is anna?\troom{k}\t1\n" for k in range(n)).encode()


def summaries(rng: random.Random, n: int) -> bytes:
    return "".join(
        json.dumps({"document": "text. " * 9 + str(k), "summary": f"s {k}", "dialogue": f"#P1#: a\n#P2#: b {k}"}) + "\n"
        for k in range(n)
    ).encode()


def meetings(rng: random.Random, n: int) -> bytes:
    def one(k: int) -> dict[str, object]:
        query = {"query": "what?", "answer": f"a {k}", "relevant_text_span": [["0", "1"]]}
        return {
            "meeting_transcripts": [{"speaker": "A", "content": f"c {k}"}] * 3,
            "specific_query_list": [query],
            "general_query_list": [],
        }

    return "".join(json.dumps(one(k)) + "\n" for k in range(n)).encode()


def plain(rng: random.Random, n: int) -> bytes:
    return "\n\n".join(" ".join(rng.choice(TEXT) + "." for _ in range(8)) for _ in range(n)).encode()


def wikitext(rng: random.Random, n: int) -> bytes:
    return "".join(f" = Title {k} = \n\n {TEXT[0] * 30}\n\n" for k in range(n)).encode()


def tei(rng: random.Random, n: int) -> bytes:
    body = "".join(f"<p>{TEXT[0] * 10} {k}<note>n</note></p>" for k in range(n))
    return f'<?xml version="1.0"?><TEI xmlns="http://www.tei-c.org/ns/1.0"><text><body>{body}</body></text></TEI>'.encode()


def ntriples(rng: random.Random, n: int) -> bytes:
    return "".join(f'<http://x.org/A{k}> <http://x.org/p> "v \\u00fc {k}"@en .\n' for k in range(n)).encode()


def triples(rng: random.Random, n: int) -> bytes:
    return ("head,relation,tail\n" + "".join(f'anna {k},"lives, in",rome\n' for k in range(n))).encode()


def html(rng: random.Random, n: int) -> bytes:
    return (
        "<html><title>t</title><body>"
        + "".join(f"<p>{TEXT[0]} {k}.<script>x</script></p>" for k in range(n))
        + "</body></html>"
    ).encode()


def pdf(rng: random.Random, n: int) -> bytes:
    stream = b"BT /F1 12 Tf 72 700 Td (Words on a page.) Tj ET"
    page = b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R>>endobj"
    content = b"4 0 obj<</Length " + str(len(stream)).encode() + b">>stream\n" + stream + b"\nendstream endobj"
    tree = [b"1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj", b"2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj", page, content]
    return b"%PDF-1.4\n" + b"\n".join(tree) + b"\ntrailer<</Size 5/Root 1 0 R>>\n%%EOF"


def records(rng: random.Random, n: int) -> bytes:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows(rng, n)).encode()


def record_list(rng: random.Random, n: int) -> bytes:
    return json.dumps(rows(rng, n), ensure_ascii=False, indent=rng.choice([None, 1])).encode()


def notes(rng: random.Random, n: int) -> bytes:
    return "".join(json.dumps({"text": f"{rng.choice(TEXT)} {k}", "meta": {"k": k}}) + "\n" for k in range(n)).encode()


# source of the data -> its files: name, and how a sound one is made
SOURCES: dict[str, list[tuple[str, Callable[[random.Random, int], bytes]]]] = {
    "records": [
        ("a.jsonl", records),
        ("a.json", record_list),
        ("a.json", records),
        ("a.csv", as_csv),
        ("a.parquet", as_parquet),
    ],
    "qa": [("a.json", squad)],
    "dialogue": [("a.jsonl", dialogues)],
    "kdconv": [("a.json", kdconv)],
    "duconv": [("a.jsonl", duconv)],
    "dialog_babi": [("a.txt", dialog_babi)],
    "babi": [("a.txt", babi)],
    "summarisation": [("a.jsonl", summaries)],
    "dialogsum": [("a.jsonl", summaries)],
    "qmsum": [("a.jsonl", meetings)],
    "text": [("a.txt", plain)],
    "wikitext": [("a.txt", wikitext)],
    "eltec": [("a.xml", tei)],
    "parallel": [("a.txt", plain)],
}
DOCUMENTS = [("a.txt", plain), ("a.md", plain), ("a.jsonl", notes), ("a.json", record_list), ("a.csv", triples), ("a.tsv", triples), ("a.nt", ntriples), ("a.html", html), ("a.pdf", pdf), ("a.sqlite", plain)]  # fmt: skip


def somewhere(rng: random.Random, raw: bytes) -> int:
    return rng.randrange(len(raw) + 1)


def insert(piece: bytes) -> Callable[[random.Random, bytes], bytes]:
    def change(rng: random.Random, raw: bytes) -> bytes:
        at = somewhere(rng, raw)
        return raw[:at] + piece + raw[at:]

    return change


def replace_value(rng: random.Random, raw: bytes) -> bytes:
    """A JSON value (or what looks like one) becomes another kind of value."""
    found = list(re.finditer(rb'"[^"\n]*"|\[|\d+', raw))
    if not found:
        return raw
    m = rng.choice(found)
    new = rng.choice(
        [
            b"null",
            b"[]",
            b"{}",
            b"7",
            b"-1",
            b"true",
            b'"\\ud83d"',
            b"Infinity",
            b"9" * 4301,
            b"1e999",
            b'"\\u0000"',
            b'""',
            b"[[]]",
            b'{"a": [null]}',
        ]
    )
    return raw[: m.start()] + new + raw[m.end() :]


def flip(rng: random.Random, raw: bytes) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.choice([1, 1, 3, 50])):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


DAMAGE: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "cut off": lambda rng, raw: raw[: somewhere(rng, raw)],
    "bytes flipped": flip,
    "a bad byte": insert(b"\xff"),
    "a NUL": insert(b"\0"),
    "a quote": insert(b'"'),
    "a bracket": insert(b"["),
    "a line end": insert(b"\n"),
    "an escape sequence": insert(b"\x1b[31m"),
    "a value replaced": replace_value,
    "two values replaced": lambda rng, raw: replace_value(rng, replace_value(rng, raw)),
    "no line ends": lambda rng, raw: raw.replace(b"\n", b" "),
    "other line ends": lambda rng, raw: raw.replace(b"\n", rng.choice([b"\r\n", b"\r"])),
    "a mark before it": lambda rng, raw: b"\xef\xbb\xbf" + raw,
    "UTF-16": lambda rng, raw: raw.decode(errors="replace").encode(rng.choice(["utf-16", "utf-16-le"])),
    "nothing": lambda rng, raw: rng.choice([b"", b"\n\n \n", b"{}", b"[]", b"null"]),
    "nested too deeply": insert(b"[" * 50_000),
    "a long line": insert(b"x" * 300_000),
    "noise": lambda rng, raw: rng.randbytes(2000),
    "twice": lambda rng, raw: raw + raw,
    "as it should be": lambda rng, raw: raw,
}


def pack(rng: random.Random, raw: bytes, damage: bool) -> bytes:
    packed = rng.choice([gzip.compress, lzma.compress])(raw)
    return flip(rng, packed) if damage else packed


def malformed(rng: random.Random, name: str, make: Callable[[random.Random, int], bytes]) -> tuple[str, bytes, str]:
    """A file's name, its bytes, and what befell it."""
    what = rng.choice(list(DAMAGE))
    raw = DAMAGE[what](rng, make(rng, rng.choice([3, 12, 40])))
    if rng.random() < 0.15:
        packed = pack(rng, raw, damage := rng.random() < 0.5)
        return (
            f"{name}.{'gz' if packed[:2] == bytes((0x1F, 0x8B)) else 'xz'}",
            packed,
            f"{what}, packed{' and damaged' * damage}",
        )
    return name, raw, what


def fast_and_slow(count: int, slice_: int) -> list[object]:
    return [pytest.param(n, marks=[] if n < slice_ else pytest.mark.slow) for n in range(count)]


@pytest.fixture
def at(terminal: Terminal) -> Terminal:
    (terminal.folder / "work").mkdir()
    (terminal.folder / "precious.txt").write_text("kept")
    terminal._patch.chdir(terminal.folder / "work")
    return terminal


def outside(at: Terminal) -> dict[str, str]:
    """All that no command below may change: everything but its data, its runs, its outputs and its personal state."""
    return {k: v for k, v in everything(at.folder).items() if not k.startswith(tuple(str(at.folder / r) for r in ("work/data", "work/runs", "work/out", "home")))}  # fmt: skip


def total(manifest: dict[str, object]) -> int:
    """Examples kept and records rejected, over all splits."""
    found = manifest["statistics"].values()  # type: ignore[attr-defined]
    return sum(s["examples"] + s["changes"].get("records rejected", 0) for s in found)


@pytest.mark.parametrize("block", fast_and_slow(60, 3))
def test_malformed_data(at, block):
    """Ten files a block, each stopped at and put in quarantine."""
    for seed in range(10 * block, 10 * block + 10):
        rng = random.Random(f"data {seed}")
        source = rng.choice(list(SOURCES))
        name, raw, what = malformed(rng, *rng.choice(SOURCES[source]))
        (at.folder / "work" / name).write_bytes(raw)
        files = f"[{name},{name}]" if source == "parallel" else name
        given = [f"data.source={source}", "data.path=.", f"data.files={{train:{files}}}", "data.tokenizer.vocab_size=400", f"data.name=d{seed}",
                 "data.clean.duplicates=false", *(["data.options={similar:0}"] if source == "parallel" else [])]  # fmt: skip
        before = outside(at)
        for mode in ("stop", "quarantine"):
            began = time.process_time()
            said = at("preprocess", "--json", "data=records", "data.hold_out={}", *given, f"data.on_error={mode}")
            check(said, began, (seed, source, name, what, mode))
            assert outside(at) == before, (seed, what)
            made = at.folder / "work" / "data" / f"d{seed}"
            assert made.exists() == (said.code == 0), (seed, what, said)
            if (
                said.code == 0
                and name.endswith(".jsonl")
                and source == "records"
                and what not in ("UTF-16", "other line ends")
                and raw[:1] != b"["
            ):
                lines = [line for line in raw.split(b"\n") if line.strip(b" \t\r\xef\xbb\xbf")]
                assert total(json.loads(said.out)) == len(lines), (seed, what, said)
            if said.code == 0 and name.endswith(".csv") and what in ("a bad byte", "an escape sequence", "as it should be"):
                lines = [line for line in raw.split(b"\n") if line.strip()]
                assert total(json.loads(said.out)) == len(lines) - 1, (seed, what, said)
            shutil.rmtree(made, ignore_errors=True)
        (at.folder / "work" / name).unlink()


@pytest.mark.parametrize("block", fast_and_slow(60, 3))
def test_malformed_documents(at, block):
    for seed in range(10 * block, 10 * block + 10):
        rng = random.Random(f"documents {seed}")
        name, raw, what = malformed(rng, *rng.choice(DOCUMENTS))
        (at.folder / "work" / name).write_bytes(raw)
        before = outside(at)
        began = time.process_time()
        said = at("memory", "import", name, "--json", "--namespace", f"n{seed}")
        check(said, began, (seed, name, what))
        assert outside(at) == before, (seed, what)
        counts = json.loads(said.out)
        assert (said.code == 1) == bool(counts["problems"]), (seed, what, said)
        if name == "a.jsonl" and what not in ("UTF-16", "other line ends") and raw[:1] != b"[":
            lines = [line for line in raw.split(b"\n") if line.strip(b" \t\r\xef\xbb\xbf")]
            assert counts["entries"] + len(counts["problems"]) == len(lines), (seed, what, counts)
        assert at("memory", "verify").code == 0, (seed, what)
        forgot = json.loads(at("memory", "forget", "--all", "--yes", "--json", "--namespace", f"n{seed}").out)
        assert (forgot["state"], forgot["entries"]) == ("erased", counts["new"]), (seed, what)
        (at.folder / "work" / name).unlink()


# tampered runs


def tamper_json(rng: random.Random, raw: bytes) -> bytes:
    values = json.loads(raw)
    place = values
    while True:
        key = rng.choice(list(place))
        if not isinstance(place[key], dict) or not place[key] or rng.random() < 0.2:
            break
        place = place[key]
    evil = [
        "../../x",
        "/etc/passwd",
        "https://example.invalid",
        -1,
        0,
        10**12,
        1e308,
        None,
        [],
        {},
        [[]],
        "x" * 100_000,
        True,
        "\ud83d",
        "postgresql://x/y",
        float("nan"),
        "\x1b[2J",
    ]
    place[key if rng.random() < 0.9 else f"new{ESCAPED}"] = rng.choice(evil)
    return json.dumps(values).encode()


ESCAPED = "\x1b[31m"


@pytest.mark.parametrize("block", fast_and_slow(24, 1))
def test_tampered_runs(at, small_run, block):
    commands = [["generate", "--json"], ["chat", "--namespace", "n"], ["runs", "--json"], ["memory", "search", "x", "--run", "small", "--namespace", "n"],
                ["eval", "-m", "exact", "eval.memories=[learned]", "--file", "own.jsonl"], ["export", "small", "out/x", "--format", "safetensors"]]  # fmt: skip
    at("memory", "add", "x", "--namespace", "n")
    (at.folder / "work" / "own.jsonl").write_text('{"input": "job of bafa ?", "target": "x"}\n')
    for seed in range(10 * block, 10 * block + 10):
        rng = random.Random(f"runs {seed}")
        run = at.folder / "work" / "runs" / "small"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(small_run, run)
        file = run / "model" / rng.choice(["config.json", "config.json", "model.safetensors", "tokenizer.model"])
        changes = [DAMAGE[n] for n in ("cut off", "bytes flipped", "nothing", "noise", "a bad byte", "a value replaced")]
        change = tamper_json if file.name == "config.json" and rng.random() < 0.7 else rng.choice(changes)
        file.write_bytes(change(rng, file.read_bytes()))
        before = outside(at)
        for command in rng.sample(commands, 3):
            began = time.process_time()
            said = at(*command, text="hello\n/why\n")
            check(said, began, (seed, file.name, command))
            assert outside(at) == before, (seed, command)


# tampered stores and exports


@pytest.fixture(scope="module")
def full_store(tmp_path_factory) -> Path:
    from memgpt_cli.store import Item, open_store

    path = tmp_path_factory.mktemp("store") / "m.sqlite"
    with open_store(str(path), "") as store:
        keys = np.random.default_rng(1).normal(size=(60, 8)).astype(np.float32)
        store.put(
            "n", [Item(f"{t} {k}", "note", {"k": k}, {"source": "a.txt", "line": k}, keys[k]) for k in range(60) for t in TEXT]
        )
        store.put("other", [Item("kept", "fact", {"triple": ["a", "b", "c"]})])
    return path


STATEMENTS = [
    "UPDATE entries SET {column}={value} WHERE id%{n}=1", "UPDATE namespaces SET {nscolumn}={value}", "DELETE FROM {table}", "DROP TABLE {table}",
    "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END", "CREATE VIEW v AS SELECT * FROM entries", "UPDATE meta SET value={value}",
    "UPDATE keys_1 SET vector={value} WHERE id%{n}=1", "UPDATE codes SET code={value} WHERE id%{n}=1", "DELETE FROM keys_1 WHERE id%{n}=1",
    "UPDATE codebooks SET mean={value}", "UPDATE encoders SET rotation={value}", "DROP TABLE keys_1", "PRAGMA user_version={n}", "CREATE TABLE extra (x)", "UPDATE encoders SET dim={value}",
]  # fmt: skip


def tamper_store(rng: random.Random, path: Path) -> None:
    import sqlite3

    if rng.random() < 0.45:
        raw = path.read_bytes()
        damage = rng.choice(["cut off", "bytes flipped", "bytes flipped", "noise", "nothing", "a bad byte"])
        path.write_bytes(DAMAGE[damage](rng, raw))
        return
    db = sqlite3.connect(path)
    values = [
        "NULL",
        "7",
        "-1",
        "'x'",
        "x'ff00'",
        "'{'",
        "'[]'",
        "9223372036854775807",
        "''",
        "1.5",
        "CAST(x'ff' AS TEXT)",
        "'" + ESCAPED + "'",
    ]
    columns = ["text", "kind", "meta", "provenance", "created", "updated", "version", "searchable", "hash", "ns", "sum"]
    for _ in range(rng.choice([1, 1, 3])):
        statement = rng.choice(STATEMENTS).format(
            column=rng.choice(columns), nscolumn=rng.choice(["name", "rev", "entries", "bytes", "limits", "sum"]), value=rng.choice(values),
            table=rng.choice(["entries", "namespaces", "words", "codes", "changes", "encoders", "meta"]), n=rng.choice([2, 3, 99]),
        )  # fmt: skip
        try:
            db.executescript(statement)
        except sqlite3.Error:
            continue
    db.commit()
    db.close()


@pytest.mark.parametrize("block", fast_and_slow(24, 1))
def test_tampered_stores(at, full_store, block):
    where = ["--store", "out-m.sqlite"]
    own = ["--namespace", "n"]
    commands = [["list", *own], ["list", "--json", *own], ["show", "1", "2", *own], ["search", "red house", *own], ["stats", *own], ["verify"], ["add", "new", *own],
                ["forget", "1", "--yes", *own], ["forget", "--where", "kind=note", "--yes", *own], ["forget", "--all", "--yes", *own], ["compact"],
                ["edit", "3", "changed", *own], ["limit", "--max-entries", "500", *own], ["export", "out-folder", *own], ["snapshot", "out-copy.sqlite"]]  # fmt: skip
    for seed in range(10 * block, 10 * block + 10):
        rng = random.Random(f"stores {seed}")
        for left in (at.folder / "work").glob("out*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        store = at.folder / "work" / "out-m.sqlite"
        shutil.copy(full_store, store)
        tamper_store(rng, store)
        before = outside(at)
        for command in rng.sample(commands, 6):
            began = time.process_time()
            said = at("memory", *command, *where)
            check(said, began, (seed, command))
            assert outside(at) == before, (seed, command)


@pytest.mark.parametrize("block", fast_and_slow(12, 1))
def test_tampered_exports(at, full_store, block):
    shutil.copy(full_store, at.folder / "work" / "out-from.sqlite")
    assert at("memory", "export", "out-sound", "--store", "out-from.sqlite", "--namespace", "n").code == 0
    for seed in range(10 * block, 10 * block + 10):
        rng = random.Random(f"exports {seed}")
        folder = at.folder / "work" / "out-bundle"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(at.folder / "work" / "out-sound", folder)
        file = folder / rng.choice(["entries.jsonl", "entries.jsonl", "manifest.json"])
        raw = file.read_bytes()
        damage = rng.choice(list(DAMAGE))
        changed = tamper_json(rng, raw) if file.name == "manifest.json" and rng.random() < 0.6 else DAMAGE[damage](rng, raw)
        file.write_bytes(changed)
        if file.name == "entries.jsonl" and rng.random() < 0.8:  # who tampers can count as well
            manifest = json.loads((folder / "manifest.json").read_text())
            manifest["sha256"]["entries.jsonl"] = hashlib.sha256(changed).hexdigest()
            (folder / "manifest.json").write_text(json.dumps(manifest))
        before = outside(at)
        began = time.process_time()
        said = at("memory", "import", "out-bundle", "--store", "out-to.sqlite", "--namespace", f"n{seed}", "--json")
        check(said, began, (seed, file.name, damage))
        assert outside(at) == before, seed
        listed = at("memory", "stats", "--store", "out-to.sqlite", "--namespace", f"n{seed}", "--json")
        kept = json.loads(listed.out)["entries"] if listed.code == 0 else 0
        assert kept == (json.loads(said.out)["new"] if said.code == 0 else 0), (seed, "whole or not at all", said)
