"""Readers lose no good record: what is bad is named by its line and counted, the rest is kept, and no input takes for ever."""

import gzip
import json
import lzma
import os
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memgpt_cli.data.clean import split_text
from memgpt_cli.errors import DataError
from memgpt_cli.ingest.chunk import Cut, chunks
from memgpt_cli.ingest.documents import read_document
from memgpt_cli.ingest.json_values import parse_json, read_json_records
from memgpt_cli.ingest.table import read_csv, read_csv_records, read_parquet
from memgpt_cli.ingest.text import open_bytes, read_lines, read_text


def collect(reader, path, *args):
    """What a reader gives, and what it rejects as (line, reason)."""
    rejected: list[tuple[int | None, str]] = []
    found = list(reader(path, lambda error, record: rejected.append((error.line, error.reason)), *args))
    return found, rejected


# CSV


def test_an_unclosed_quote_costs_its_own_record(tmp_path):
    rows = [f"q{n},a{n}" for n in range(1, 1000)]
    rows[9] = 'q10,"a10'
    (tmp_path / "a.csv").write_text("\n".join(["q,a", *rows]) + "\n")
    found, rejected = collect(read_csv_records, tmp_path / "a.csv")
    assert len(found) == 998
    assert rejected == [(11, "broken CSV: a quote is never closed")]
    assert [n for n, _ in found] == [n for n in range(2, 1001) if n != 11]


def test_quotes_everywhere_and_one_of_them_open(tmp_path):
    rows = [f'"q, {n}","a ""{n}"""' for n in range(100)]
    rows[50] = '"q, 50","a'
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    found, rejected = collect(read_csv, tmp_path / "a.csv")
    assert [line for line, _ in rejected] == [51]
    assert [row for _, row in found] == [[f"q, {n}", f'a "{n}"'] for n in range(100) if n != 50]


def test_records_that_span_lines_have_the_number_of_their_first(tmp_path):
    (tmp_path / "a.csv").write_text('q,a\n"one\ntwo",x\nshort\n"three\n\nfour",y\n')
    found, rejected = collect(read_csv_records, tmp_path / "a.csv")
    assert found == [(2, {"q": "one\ntwo", "a": "x"}), (5, {"q": "three\n\nfour", "a": "y"})]
    assert rejected == [(4, "1 fields, expected 2 (q, a)")]


def test_csv_is_read_as_python_reads_it_where_it_is_sound(tmp_path):
    import csv
    import io

    rng = random.Random(5)
    rows = [["".join(rng.choice('ab,"\n é') for _ in range(rng.randint(0, 6))) for _ in range(3)] for _ in range(300)]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    (tmp_path / "a.csv").write_text(out.getvalue())
    found, rejected = collect(read_csv, tmp_path / "a.csv")
    assert ([row for _, row in found], rejected) == (rows, [])


@pytest.mark.parametrize("header", ["", "a,a\n", "\n\n"])
def test_a_header_that_names_no_columns_is_said(tmp_path, header):
    (tmp_path / "a.csv").write_text(header)
    with pytest.raises(DataError, match="must name the columns, each once"):
        collect(read_csv_records, tmp_path / "a.csv")


# lines and encodings


def test_one_bad_byte_costs_its_line(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\nzwei é\nth\xc3ree\nfour\n".encode("latin-1").replace(b"\xe9", "é".encode()))
    found, rejected = collect(read_lines, tmp_path / "a.txt")
    assert [n for n, _ in found] == [1, 2, 4]
    assert rejected == [(3, "invalid UTF-8 at byte 2 of the line (0xc3)")]
    with pytest.raises(DataError, match=r"a.txt:3: invalid UTF-8"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_encodings_that_say_so_are_read(tmp_path, encoding):
    (tmp_path / "a.jsonl").write_bytes('{"text": "é 文"}\n{"text": "b"}\n'.encode(encoding))
    assert [r["text"] for _, r in collect(read_json_records, tmp_path / "a.jsonl")[0]] == ["é 文", "b"]


def test_utf_16_without_a_mark_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "b"}\n'.encode("utf-16-le"))
    found, ((_, reason),) = collect(read_json_records, tmp_path / "a.jsonl")
    assert found == []
    assert "looks like UTF-16 without a mark" in reason


def test_old_line_ends_are_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\rtwo\r")
    assert collect(read_lines, tmp_path / "a.txt") == ([(1, "one"), (2, "two")], [])


# JSON

BAD_JSON = {
    '{"text": "\\ud83d"}': "half of a surrogate pair",
    '{"n": ' + "9" * 4301 + "}": "an integer of 4,301 digits",
    '{"n": Infinity}': "Infinity, which is no JSON",
    '{"n": NaN}': "NaN, which is no JSON",
    '{"n": 1e999}': "the number 1e999 is too large",
    "[" * 100_000: "nested too deeply|Expecting",
    '{"a": 1': "Expecting ',' delimiter at column",
    '{"a": 1} x': "Extra data at column",
}


@pytest.mark.parametrize("text", BAD_JSON)
def test_what_is_no_json_is_said_and_costs_its_line(tmp_path, text):
    with pytest.raises(DataError, match=f"broken JSON: .*({BAD_JSON[text]})"):
        parse_json(text)
    (tmp_path / "a.jsonl").write_text('{"a": 0}\n' + text + '\n{"a": 2}\n')
    found, rejected = collect(read_json_records, tmp_path / "a.jsonl")
    assert [n for n, _ in found] == [1, 3]
    assert [line for line, _ in rejected] == [2]


@pytest.mark.parametrize("text", [*list(BAD_JSON)[:5], '{"a": x}', '{"a"  1}'])
def test_a_broken_record_of_a_list_costs_itself(tmp_path, text):
    (tmp_path / "a.json").write_text('[\n  {"a": 0},\n  ' + text + ',\n  {"a": 2},\n  7\n]\n')
    found, rejected = collect(read_json_records, tmp_path / "a.json")
    assert found == [(2, {"a": 0}), (4, {"a": 2})]
    assert [line for line, _ in rejected] == [3, 5]


def test_a_list_that_is_cut_off_keeps_what_is_whole(tmp_path):
    (tmp_path / "a.json").write_text('[{"a": 0},\n{"a": 1},\n{"a": 2')
    found, rejected = collect(read_json_records, tmp_path / "a.json")
    assert [n for n, _ in found] == [1, 2]
    assert len(rejected) == 1


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "b.jsonl", "c.JSON"])
def test_json_lines_are_read_whatever_they_are_called(tmp_path, name):
    text = b'{"a": 0}\n{"a": 1}\n'
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    assert [r["a"] for _, r in collect(read_json_records, tmp_path / name)[0]] == [0, 1]


def test_one_object_over_many_lines_is_one_record(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"a": [1, {"b": 2}]}, indent=1))
    assert collect(read_json_records, tmp_path / "a.json") == ([(1, {"a": [1, {"b": 2}]})], [])


# packed files, Parquet


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_a_damaged_packed_file_keeps_what_came_before(tmp_path, pack):
    rng = random.Random(1)
    lines = [json.dumps({"n": n, "x": rng.random()}) for n in range(20_000)]
    packed = bytearray(pack("\n".join(lines).encode()))
    name = tmp_path / ("a.jsonl.gz" if pack is gzip.compress else "a.jsonl.xz")
    for damage in (packed[: len(packed) // 2], packed[:-3]):
        name.write_bytes(damage)
        found, rejected = collect(read_json_records, name)
        assert [r["n"] for _, r in found] == list(range(len(found)))
        assert rejected[-1][1].startswith(("the packed file is damaged", "broken JSON"))


def test_a_bomb_is_not_unfolded(tmp_path, monkeypatch):
    monkeypatch.setattr("memgpt_cli.ingest.text.UNPACKED_BYTES", 1 << 20)
    for name, pack in (("a.txt.gz", gzip.compress), ("a.txt.xz", lzma.compress)):
        (tmp_path / name).write_bytes(pack(bytes(64 << 20)))
        with pytest.raises(DataError, match="unfolds to more than 200 times its size"):
            open_bytes(tmp_path / name).read()
        assert [str(e).split("/")[-1] for e in read_document(tmp_path / name, Cut())]


def test_damaged_parquet_keeps_the_rows_before(tmp_path):
    rng = random.Random(1)
    table = pa.table({"q": [f"question {n} {rng.random()}" for n in range(20_000)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2000, compression="NONE")
    whole = bytearray((tmp_path / "a.parquet").read_bytes())
    middle = len(whole) // 2
    whole[middle : middle + 5000] = bytes(5000)
    (tmp_path / "a.parquet").write_bytes(whole)
    found = []
    with pytest.raises(DataError, match=r"is damaged after row|is no Parquet file, or a damaged one"):  # noqa: PT012
        for row in read_parquet(tmp_path / "a.parquet", lambda *_: None):
            found.append(row)
    assert [n for n, _ in found] == list(range(1, len(found) + 1))


# documents


def test_a_text_is_cut_alike_whatever_its_length_and_lines_are_counted(tmp_path):
    paragraphs = [f"Paragraph {n} is short. It has two sentences.\n" for n in range(60_000)]
    (tmp_path / "a.txt").write_text("\n".join(paragraphs))
    items = list(read_document(tmp_path / "a.txt", Cut(60, 0)))
    assert [i.text for i in items] == [p.strip() for p in paragraphs]
    assert [i.provenance["line"] for i in items] == [1 + 2 * n for n in range(60_000)]


SLOW = ["a" * 400_000, "." * 400_000, "Mr. " * 100_000, "\n" * 400_000 + "x", '."' * 200_000, "。" * 400_000, "\n " * 200_000 + "x", "<" + "a" * 400_000]  # fmt: skip


@pytest.mark.parametrize("text", SLOW, ids=lambda t: repr(t[:6]))
def test_no_text_takes_for_ever(tmp_path, text):
    """Each of these took from ten seconds to minutes; now the suite's own time limit would tell."""
    pieces = [p for _, p in chunks(text, Cut(600, 1))]
    assert all(len(p.strip()) <= 600 for p in pieces)
    assert "".join(split_text(text, lambda part: len(part) <= 600)) == text
    (tmp_path / "a.nt").write_text(text + "\n")
    assert all(isinstance(found, DataError) for found in read_document(tmp_path / "a.nt", Cut()))


def test_parsers_are_stopped_and_their_words_kept_to_themselves(tmp_path, monkeypatch):
    pytest.importorskip("bs4")
    pytest.importorskip("pypdf")
    monkeypatch.setattr("memgpt_cli.ingest.documents.PARSE_S", 0.2)
    monkeypatch.setattr("memgpt_cli.ingest.documents._visible", lambda soup: [None for _ in iter(int, 1)])
    (tmp_path / "a.html").write_text("<p>x</p>")
    (error,) = read_document(tmp_path / "a.html", Cut())
    assert "was not read within 0.2 s" in str(error)
    (tmp_path / "b.pdf").write_bytes(b"%PDF-1.7\n" + os.urandom(2000))
    (error,) = read_document(tmp_path / "b.pdf", Cut())
    assert "no PDF that can be read" in str(error)


def test_a_file_with_a_name_that_is_no_text_is_imported(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("a note")
    (item,) = read_document(path, Cut())
    assert item.provenance["source"].endswith("caf\\xe9.txt")


def test_a_list_on_one_line_goes_on_after_a_broken_record(tmp_path):
    records = [{"input": f"q{n}", "memory": [{"a": n}]} for n in range(1000)]
    text = json.dumps(records).replace('"q1"', '"q1', 1)
    (tmp_path / "a.json").write_text(text)
    found, rejected = collect(read_json_records, tmp_path / "a.json")
    assert [r["input"] for _, r in found] == ["q0", *(f"q{n}" for n in range(2, 1000))]
    assert len(rejected) == 1


def test_long_json_lines_called_json_are_lines(tmp_path):
    lines = [json.dumps({"text": "x" * 100_000, "n": n}) for n in range(6)]
    lines[0] = lines[0][:-1]
    (tmp_path / "a.json").write_text("\n".join(lines) + "\n")
    found, rejected = collect(read_json_records, tmp_path / "a.json")
    assert ([r["n"] for _, r in found], [line for line, _ in rejected]) == ([1, 2, 3, 4, 5], [1])


def test_a_header_that_cannot_be_read_is_no_data(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"q\xff,a\n1,2\n3,4\n")
    with pytest.raises(DataError, match=r"a.csv:1: the first line must name the columns, and cannot be read: invalid UTF-8"):
        collect(read_csv_records, tmp_path / "a.csv")


@pytest.mark.parametrize("line", ['a","""', '"a""', '{"a":},'])
def test_readers_of_rows_do_not_go_back_for_ever(tmp_path, line):
    (tmp_path / "a.csv").write_text("q\n" + f"{line}\n" * 40_000)
    (tmp_path / "a.json").write_text('[{"a": 1},\n' + f"{line}\n" * 40_000 + "]")
    for reader, name in ((read_csv, "a.csv"), (read_json_records, "a.json")):
        found, rejected = collect(reader, tmp_path / name)
        assert rejected if reader is read_json_records else len(found) + len(rejected) >= 20_000


def test_a_parquet_that_unfolds_to_far_more_is_refused(tmp_path):
    pq.write_table(pa.table({"q": ["x" * 40_000_000]}), tmp_path / "a.parquet", compression="ZSTD")
    with pytest.raises(DataError, match="unfolds to more than 200 times its size"):
        list(read_parquet(tmp_path / "a.parquet", lambda *_: None))
