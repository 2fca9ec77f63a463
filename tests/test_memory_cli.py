"""memgpt memory as a user types it, and documents read into entries."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from memgpt_cli.cli import app, load_commands
from memgpt_cli.errors import DataError, MemgptError, UsageError
from memgpt_cli.ingest.chunk import Cut, chunks, sentences
from memgpt_cli.ingest.documents import find_documents, read_document

load_commands()


@pytest.fixture
def memgpt(tmp_path, monkeypatch):
    """Runs `memgpt memory …` on a store of the test's own; returns the output."""
    monkeypatch.setenv("MEMGPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)  # where no run lies: documents would be cut as long as the newest one has learned to read

    def run(*words: str, code: int = 0, text: str | None = None) -> str:
        result = CliRunner().invoke(
            app, ["memory", *words, "--namespace", "anna"] if words[0] not in ALONE else ["memory", *words], input=text
        )
        if isinstance(result.exception, MemgptError):
            assert code == result.exception.exit_code, result.exception
            return str(result.exception)
        assert result.exit_code == code, (result.output, result.exception)
        return result.output

    return run


ALONE = ("verify", "compact", "snapshot", "serve-check")


def lines(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_add_search_show_edit_forget(memgpt, tmp_path):
    assert "remembered 1 (id 1)" in memgpt("add", "Anna's cat is called Tom")
    assert "remembered 2 (id 2, 3)" in memgpt("add", "-", text="anna | lives in | rome\n\n我喜欢绿茶\n")
    assert "Tom" in memgpt("search", "cat")
    (hit,) = lines(memgpt("search", "绿茶", "--json"))
    assert (hit["text"], hit["kind"], hit["similarity"]) == ("我喜欢绿茶", "note", None)
    assert "nothing found for 'zebra'" in memgpt("search", "zebra")
    assert [e["kind"] for e in lines(memgpt("list", "--json"))] == ["note", "fact", "note"]
    assert "rome" in memgpt("list", "--where", "kind=fact")
    assert "more: --after 2" in memgpt("list", "--limit", "2")
    shown = memgpt("show", "1")
    assert "version 1" in shown
    assert "found by its words" in shown
    assert "version 2" in memgpt("edit", "1", "Anna's cat is called Tim", "--if-version", "1")
    assert "is at version 2, not 1" in memgpt("edit", "1", "x", "--if-version", "1", code=1)
    assert "no entry 99" in memgpt("show", "99", code=1)
    assert "--yes says that you mean it" in memgpt("forget", "1", code=2)
    assert "no byte of it is left" in memgpt("forget", "1", "--yes")
    assert b"Tim" not in b"".join(p.read_bytes() for p in (tmp_path / "home").iterdir())
    assert "nothing forgotten" in memgpt("forget", "--where", "text~zebra", "--yes")
    assert json.loads(memgpt("forget", "--where", "text~茶", "--yes", "--json")) == {
        "state": "erased",
        "entries": 1,
        "reason": "",
    }
    assert "forget what?" in memgpt("forget", "2", "--all", "--yes", code=2)
    assert "forgot 1 entries" in memgpt("forget", "--all", "--yes")
    assert "holds nothing" in memgpt("list")


def test_duplicates_are_counted_and_known(memgpt):
    memgpt("add", "twice")
    time.sleep(1.1)  # another moment is another origin
    assert "remembered 0 (id 1), 1 known already" in memgpt("add", "twice")
    assert lines(memgpt("show", "1", "--json"))[0]["count"] == 2


def test_stats_limits_and_care(memgpt, tmp_path):
    memgpt("add", "-", text="one\ntwo | is | a fact\n")
    stats = json.loads(memgpt("stats", "--json"))
    assert (stats["entries"], stats["kinds"]["fact"], stats["without_vector"]) == (2, 1, 2)
    assert "█" in memgpt("stats")
    assert "max_entries 2" in memgpt("limit", "--max-entries", "2")
    assert "would hold 3 entries of at most 2" in memgpt("add", "three", code=1)
    assert "on_full is 'maybe'" in memgpt("limit", "--on-full", "maybe", code=2)
    memgpt("limit", "--on-full", "forget_oldest")
    assert "1 older ones forgotten" in memgpt("add", "three")
    assert "nothing wrong" in memgpt("verify")
    assert "rewritten" in memgpt("compact")
    assert "copied to" in memgpt("snapshot", str(tmp_path / "copy.sqlite"))
    out = memgpt("serve-check", str(tmp_path / "other.sqlite"))
    assert "✗" not in out
    assert out.count("✓") >= 10


def test_export_and_import_back(memgpt, tmp_path):
    memgpt("add", "-", text="one\n二\n")
    folder = tmp_path / "out"
    assert "2 entries of 'anna'" in memgpt("export", str(folder))
    assert "is there already" in memgpt("export", str(folder), code=1)
    before = lines(memgpt("list", "--json"))
    memgpt("forget", "--all", "--yes")
    assert "2 entries from 1 files" in memgpt("import", str(folder))
    assert [{**e, "id": 0} for e in lines(memgpt("list", "--json"))] == [{**e, "id": 0} for e in before]
    assert "0 entries from 1 files, 2 known already" in memgpt("import", str(folder))
    (folder / "entries.jsonl").write_text("{}")
    assert "checksum" in memgpt("import", str(folder), code=1)


DOCUMENTS = {
    "a.txt": "First sentence here. Second one follows!\n\nA new paragraph.",
    "b.md": "# Title\n\nSome *text* about 绿茶。还有一句。\n",
    "c.jsonl": '{"text": "a note", "meta": {"x": 1}}\n{"head": "tom", "relation": "is a", "tail": "cat"}\nnot json\n{"kind": "note"}\n',
    "d.csv": 'head,relation,tail\nanna,lives in,"rome, italy"\nbroken,row\nben,likes,a | b\n',
    "e.nt": '<http://x.org/Anna_B> <http://x.org/p#livesIn> <http://x.org/Rome> .\n# comment\n'
    '<http://x.org/Anna_B> <http://x.org/name> "Anna \\"B\\" \\u00fc"@en .\n_:b1 <http://x.org/p> "5"^^<http://x.org/int> .\nbad line .\n',
    "skip.bin": "x",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "docs"
    found.mkdir()
    for name, text in DOCUMENTS.items():
        (found / name).write_text(text)
    return found


def read(path, **cut):
    found = list(read_document(path, Cut(**cut)))
    return [i for i in found if not isinstance(i, DataError)], [str(e) for e in found if isinstance(e, DataError)]


def test_every_format_is_read_and_what_cannot_be_is_named(folder):
    items, problems = read(folder / "a.txt", most=50, overlap=0)
    assert [(i.text, i.provenance["line"]) for i in items] == [
        ("First sentence here. Second one follows!", 1),
        ("A new paragraph.", 3),
    ]
    items, problems = read(folder / "c.jsonl")
    assert [(i.text, i.kind) for i in items] == [("a note", "note"), ("tom | is a | cat", "fact")]
    assert [p.split("docs/")[1].split(":")[1] for p in problems] == ["3", "4"]
    items, problems = read(folder / "d.csv")
    assert [i.text for i in items] == ["anna | lives in | rome, italy", "ben | likes | a \\| b"]
    assert len(problems) == 1
    assert "d.csv:3: 2 columns, expected 3" in problems[0]
    items, problems = read(folder / "e.nt")
    assert [i.text for i in items] == ["Anna B | livesIn | Rome", 'Anna B | name | Anna "B" ü', "_:b1 | p | 5"]
    assert items[0].meta["terms"] == ["http://x.org/Anna_B", "http://x.org/p#livesIn", "http://x.org/Rome"]
    assert items[1].meta["language"] == "en"
    assert len(problems) == 1


def test_pdf_and_html(tmp_path):
    pytest.importorskip("bs4")
    pytest.importorskip("pypdf")
    (tmp_path / "a.html").write_text(
        "<html><head><title>T</title><style>x{}</style></head><body><p>One sentence.</p><script>no()</script><ul><li>item</li></ul></body></html>"
    )
    items, problems = read(tmp_path / "a.html", most=600)
    assert problems == []
    assert "One sentence." in items[0].text
    assert "no()" not in items[0].text
    stream = b"BT /F1 12 Tf 72 700 Td (Words on a page.) Tj ET"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream), b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]  # fmt: skip
    out, places = b"%PDF-1.4\n", []
    for n, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj" % n + body + b"endobj\n"
    table = b"".join(b"%010d 00000 n \n" % p for p in places)
    out += b"xref\n0 6\n0000000000 65535 f \n" + table + b"trailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % len(out)
    (tmp_path / "a.pdf").write_bytes(out)
    items, problems = read(tmp_path / "a.pdf")
    assert [(i.text, i.provenance["page"]) for i in items] == [("Words on a page.", 1)]
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.4 nonsense")
    assert "no PDF that can be read" in read(tmp_path / "b.pdf")[1][0]


def test_import_a_folder_twice(memgpt, folder):
    out = memgpt("import", str(folder), code=1)
    assert "d.csv:3" in out
    assert "1 files of other kinds left alone (.bin)" in out
    result = json.loads(memgpt("import", str(folder), "--json", code=1))
    assert result["new"] == 0
    assert result["entries"] > 8
    assert len(result["problems"]) == 4
    memgpt("forget", "--where", f"source={folder}/a.txt", "--yes")
    assert json.loads(memgpt("import", str(folder), "--json", code=1))["new"] == 1
    assert "no such file" in memgpt("import", "nowhere", code=2)
    assert "'.bin' files cannot be read" in memgpt("import", str(folder / "skip.bin"), code=2)


def test_one_bad_line_loses_no_good_one(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "one"}\n{"text": "nul \\u0000"}\n{"text": "x", "meta": {"y": "\\ud800"}}\n{"text": "two"}\n'
    )
    items, problems = read(tmp_path / "a.jsonl")
    assert [i.text for i in items] == ["one", "two"]
    assert ["a.jsonl:2:" in problems[0], "a.jsonl:3:" in problems[1]] == [True, True]
    (tmp_path / "b.csv").write_text('a,b,c\nd,"e"x,f\ng,h,i\n')
    items, problems = read(tmp_path / "b.csv")
    assert [i.text for i in items] == ["a | b | c", "g | h | i"]
    assert len(problems) == 1
    for name in ("c.txt.gz", "d.txt.xz"):
        (tmp_path / name).write_bytes(b"\x1f\x8b\x08 nonsense" * 9)
        assert "cannot be read" in read(tmp_path / name)[1][0]


def test_paths_upwards_and_stores_in_the_folder(memgpt, folder, monkeypatch):
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    (folder / ".hidden.txt").write_text("hidden")
    assert json.loads(memgpt("import", "..", "--store", "../kb.sqlite", "--json", code=1))["files"] == 5
    again = json.loads(memgpt("import", "..", "--store", "../kb.sqlite", "--json", code=1))
    assert (again["files"], again["new"]) == (5, 0)


def test_what_a_changed_file_no_longer_holds_can_be_pruned(memgpt, tmp_path):
    file, other = tmp_path / "a.txt", tmp_path / "b.txt"
    file.write_text("The first sentence of it.\n\nA second sentence follows.")
    other.write_text("Another file.")
    cut = ("--chars", "40", "--overlap", "0")
    memgpt("import", str(file), str(other), *cut)
    file.write_text("The first sentence of it.\n\nA third sentence follows.")
    assert "1 entries are of earlier versions of these files" in memgpt("import", str(file), *cut)
    assert "forgot 1 entries that these files no longer hold" in memgpt("import", str(file), *cut, "--prune")
    assert [e["text"] for e in lines(memgpt("list", "--json"))] == [
        "The first sentence of it.",
        "Another file.",
        "A third sentence follows.",
    ]


def test_odd_names_texts_and_limits_are_just_printed(memgpt, tmp_path, monkeypatch):
    store = str(tmp_path / "m.sqlite")

    def run(*words, code=0):
        result = CliRunner().invoke(app, ["memory", *words, "--store", store, "--namespace", "[/x]"])
        assert result.exit_code == code or isinstance(result.exception, MemgptError), (result.output, result.exception)
        return result.output

    run("add", "\x1b]52;c;evil\x07 [bold]x[/bold]")
    for command in (("list",), ("show", "1"), ("stats",), ("search", "evil"), ("limit",)):
        assert "\x1b]52" not in run(*command)
    assert "[bold]x[/bold]" in run("list")
    assert "[/x]" in run("stats")
    assert "36,500" in memgpt("limit", "--max-age-days", "1000000", code=2)
    run("forget", "--all", "--yes")
    assert "nothing to remember" in memgpt("add", "-", text="\n", code=2)
    assert "no memory store at" in memgpt("list", "--store", str(tmp_path / "typo.sqlite"), code=1)
    assert not (tmp_path / "typo.sqlite").exists()


def test_an_edited_turn_can_still_be_gone_on_from(memgpt, tmp_path):
    from memgpt_cli.store import Item, open_store

    with open_store(str(tmp_path / "home" / "memory.sqlite")) as store:
        store.put("anna", [Item("user: hi", "turn", {"speaker": "user", "said": "hi"}, {"session": "s", "place": 0})])
    memgpt("edit", "1", "hello there")
    entry = lines(memgpt("show", "1", "--json"))[0]
    assert (entry["text"], entry["meta"]) == ("user: hello there", {"speaker": "user", "said": "hello there"})


def test_files_named_are_found(folder):
    files, left = find_documents([folder])
    assert [f.name for f in files] == ["a.txt", "b.md", "c.jsonl", "d.csv", "e.nt"]
    assert [f.name for f in left] == ["skip.bin"]
    with pytest.raises(UsageError, match="at least 8"):
        Cut(3)


def test_binary_and_broken_files_are_named(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe broken")
    (tmp_path / "y.txt").write_bytes(b"nul \0 byte")
    assert "invalid UTF-8" in read(tmp_path / "x.txt")[1][0]
    assert "not a text file" in read(tmp_path / "y.txt")[1][0]


def test_a_memory_of_the_first_format_can_be_imported(memgpt, tmp_path):
    import apsw

    old = tmp_path / "old.sqlite"
    db = apsw.Connection(str(old))
    db.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, text, kind, meta, created); PRAGMA user_version=1")
    db.execute(
        """INSERT INTO entries VALUES (1, 'user: hi', 'turn', '{"speaker":"user","said":"hi","session":"s","place":0}', '2026-01-01')"""
    )
    db.close()
    assert "1 entries from 1 files" in memgpt("import", str(old))
    assert lines(memgpt("list", "--json"))[0]["provenance"] == [{"when": "2026-01-01", "session": "s", "place": 0}]


@given(st.text(alphabet='ab .!?。！\n"c1)', max_size=300), st.integers(8, 60), st.integers(0, 3))
def test_chunks_keep_every_character_and_their_place(text, chars, overlap):
    assert "".join(s for _, s in sentences(text)) == text
    covered = np.zeros(len(text), bool)
    last = -1
    for offset, piece in chunks(text, Cut(chars, overlap)):
        assert text[offset : offset + len(piece)] == piece
        assert piece
        assert len(piece.strip()) <= chars
        assert offset > last
        last = offset
        covered[offset : offset + len(piece)] = True
    assert all(c.isspace() for c, there in zip(text, covered, strict=True) if not there)


def test_chunks_overlap_by_sentences():
    text = "One is here. Two is here. Three is here. Four is here."
    assert [p.strip() for _, p in chunks(text, Cut(30, 1))] == [
        "One is here. Two is here.",
        "Two is here. Three is here.",
        "Three is here. Four is here.",
    ]
    assert [s.strip() for _, s in sentences("Dr. Smith met J. Brown. They talked.")] == [
        "Dr. Smith met J. Brown.",
        "They talked.",
    ]
    assert [s for _, s in sentences("你好。“再见！”他说。")] == ["你好。", "“再见！”", "他说。"]


def test_the_store_reads_no_torch(tmp_path):
    code = "import sys; from memgpt_cli.store import open_store; open_store('x.sqlite'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path).stdout == "False\n"


def test_bench_memory_measures_and_draws(tmp_path):
    plot = tmp_path / "p.png"
    result = CliRunner().invoke(
        app, ["bench", "memory", "--rows", "6000", "--dim", "32", "--queries", "64", "--plot", str(plot), "--json"]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    by_name = {(m["index"], m["namespace"]): m for m in found["rows"]}
    assert {("store", "all"), ("store", "50 %"), ("store", "5 %"), ("store", "100 rows"), ("exact", "all")} <= set(by_name)
    assert by_name["store", "100 rows"]["recall"] == 1
    assert by_name["exact", "all"]["recall"] == 1
    assert by_name["store", "all"]["recall"] > 0.9
    assert found["puts"]["ours_ms"] > 0
    assert plot.stat().st_size > 1000
