"""Every source: what it reads, and the law that no example sees its own target or its future."""

import json
import random

import pytest

from memgpt_cli import plugins
from memgpt_cli.config import bundled_folder
from memgpt_cli.data.sources import Where, find_source, make_options
from memgpt_cli.data.sources.facts import FactsOptions, make_facts, people
from memgpt_cli.errors import DataError
from memgpt_cli.schema import parse_triple

TRIPLE = {"name": "长城", "attrname": "位于", "attrvalue": "北京"}
SAMPLES = {
    "dialog_babi": ("d.txt", "1 hi\thello\n2 resto R_price cheap\n3 <SILENCE>\thow about resto\n4 thanks\tbye\n\n1 hey\thello\n2 x\ty\n", {"reply": "bot"}),
    "kdconv": ("k.json", json.dumps([{"messages": [{"message": "你好"}, {"message": "长城在北京", "attrs": [TRIPLE]}, {"message": "真好"}, {"message": "是的"}]}]), {}),
    "duconv": ("u.txt", json.dumps({"goal": [["START", "a", "b"]], "knowledge": [["a", "导演", "c"]], "conversation": ["一", "二", "三"]}) + "\n", {}),
    "dialogue": ("g.jsonl", json.dumps({"messages": [{"role": r, "content": f"m{n}", "knowledge": [["h", "r", f"t{n}"]]} for n, r in enumerate(["user", "bot"] * 3)]}) + "\n", {"reply": "bot"}),
    "babi": ("qa1_train.txt", "1 Mary went home.\n2 John left.\n3 Where is Mary?\thome\t1\n4 Mary ran.\n5 Where is Mary?\tout\t1 4\n1 A b.\n2 Who?\ta,b\t1\n", {}),
    "qa": ("s.json", json.dumps({"data": [{"title": "T", "paragraphs": [{"context": "Cats purr. Dogs bark at night. Fish are silent.", "qas": [{"id": "1", "question": "Who barks?", "answers": [{"text": "Dogs", "answer_start": 11}]}]}]}]}), {"chunk": 20}),
    "summarisation": ("m.jsonl", json.dumps({"document": "First part. Second part. Third part.", "summary": "parts"}) + "\n", {"chunk": 15}),
    "dialogsum": ("t.jsonl", json.dumps({"fname": "f", "dialogue": "#Person1#: Hi\n#Person2#: Ho", "summary1": "they greet", "summary2": "a greeting", "summary3": "hi ho"}) + "\n", {}),
    "qmsum": ("q.json", json.dumps({"meeting_transcripts": [{"speaker": "A", "content": "we start"}, {"speaker": "B", "content": "we end"}], "general_query_list": [{"query": "what?", "answer": "all"}], "specific_query_list": [{"query": "end?", "answer": "yes", "relevant_text_span": [["1", "1"]]}]}), {}),
    "text": ("b.txt", "".join(f"Sentence number {n} of the book. " for n in range(60)), {"window": 80, "chunk": 60, "memory": 200, "document": 900}),
    "wikitext": ("w.txt", " \n = One = \n \n " + "".join(f"Word {n} of the first . " for n in range(40)) + "\n = Two = \n \n " + "".join(f"Word {n} of the second . " for n in range(40)) + "\n", {"window": 80, "chunk": 60}),
    "eltec": ("e.xml", '<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader>secret header</teiHeader><text><front><p>preface</p></front><body><head>I</head>' + "".join(f"<p>The <hi>old</hi> house {n} stood. <note>an editor's note</note>It was dark at {n}.</p>" for n in range(12)) + "</body></text></TEI>", {"window": 60, "chunk": 50}),
    "records": ("r.jsonl", json.dumps({"input": "q", "target": "a", "memory": ["one", ["h", "r", "t"]]}) + "\n", {}),
}  # fmt: skip


def read(name, tmp_path, text=None, **more):
    file, sample, options = SAMPLES[name]
    path = tmp_path / file
    path.write_text(sample if text is None else text, encoding="utf-8")
    source, errors = find_source(name), []
    episodes = list(
        source.read(path, make_options(source, {**options, **more}), Where("train", 1, lambda e, r: errors.append(e)))
    )
    return episodes, errors


def facts(split="train", **options):
    source = find_source("facts")
    given = {
        "episodes_train": 4,
        "episodes_valid": 3,
        "episodes_test": 3,
        "facts": 20,
        "facts_min": 10,
        "facts_test": 20,
        **options,
    }
    return list(source.read(None, make_options(source, given), Where(split, 1, lambda e, r: None)))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_source_yields_sound_episodes(name, tmp_path):
    episodes, errors = read(name, tmp_path)
    assert episodes
    assert not errors
    for episode in episodes:
        episode.validate()


def test_every_source_has_a_test():
    assert set(SAMPLES) | {"facts", "parallel", "companion"} == set(plugins.names(plugins.SOURCES))


@pytest.mark.parametrize("name", ["dialog_babi", "kdconv", "duconv", "dialogue", "text", "wikitext", "eltec"])
def test_no_example_sees_its_target_or_its_future(name, tmp_path):
    """In these sources targets become entries later on: the entry must stand behind what the example sees."""
    checked = 0
    for episode in read(name, tmp_path)[0]:
        said = [e.text.split(": ", 1)[-1] for e in episode.entries if e.kind != "fact"]
        position = {n: k for k, n in enumerate(i for i, e in enumerate(episode.entries) if e.kind != "fact")}
        for example in episode.examples:
            seen = [said[position[n]] for n in range(example.sees) if n in position]
            if len(set(said)) == len(said):  # texts that repeat cannot be told apart
                assert example.target.strip() not in seen
                assert not any(s and s in example.target for s in seen if len(s) > 25)
                checked += 1
    assert checked


def test_facts_are_known_once_they_were_said(tmp_path):
    (episode,), _ = read("kdconv", tmp_path)
    first, second, third = episode.examples
    fact = next(n for n, e in enumerate(episode.entries) if e.kind == "fact")
    assert first.sees <= fact, "the reply that says it must not see it"
    assert second.sees > fact
    (oracle,), _ = read("kdconv", tmp_path, knowledge_from="dialogue")
    assert oracle.entries[0].kind == "fact"
    assert all(x.sees >= 1 for x in oracle.examples)
    assert oracle.examples[0].evidence == (0,)


def test_a_reply_reads_older_turns_not_its_input(tmp_path):
    (episode, _), _ = read("dialog_babi", tmp_path)
    last = episode.examples[-1]
    assert last.input == "bot: how about resto\nuser: thanks"
    assert [e.text for e in episode.entries[: last.sees]] == [
        "user: hi",
        "bot: hello",
        "resto | R_price | cheap",
        "user: <SILENCE>",
    ]


def test_answer_spans_give_the_evidence(tmp_path):
    (episode,), _ = read("qa", tmp_path)
    (example,) = episode.examples
    assert "Dogs" in episode.entries[example.evidence[0]].text


def test_babi_stories_end_where_numbers_begin_again(tmp_path):
    episodes, _ = read("babi", tmp_path)
    assert [len(e.examples) for e in episodes] == [2, 1]
    assert episodes[0].examples[1].evidence == (0, 2)
    assert episodes[0].examples[0].sees == 2


def test_markup_is_stripped(tmp_path):
    episodes, _ = read("eltec", tmp_path)
    text = " ".join(x.input for e in episodes for x in e.examples)
    assert "The old house 0 stood. It was dark at 0." in text
    for unwanted in ("<", "editor", "header", "preface"):
        assert unwanted not in text


def test_three_references_of_dialogsum(tmp_path):
    (episode,), _ = read("dialogsum", tmp_path)
    assert episode.examples[0].references == ("they greet", "a greeting", "hi ho")


def test_windows_cover_the_text(tmp_path):
    episodes, _ = read("text", tmp_path, memory=0)
    written = "".join(x.target for e in episodes for x in e.examples)
    for n in (10, 30, 50):
        assert f"number {n} of" in written or any(f"number {n} of" in x.input for e in episodes for x in e.examples)


def test_translation_memory_never_holds_the_pair_itself(tmp_path):
    english = [f"the {c} {a} sleeps in the garden" for c in ("red", "blue", "old") for a in ("cat", "dog", "bird")]
    (tmp_path / "a.en").write_text("\n".join(english) + "\n")
    (tmp_path / "a.de").write_text("\n".join(f"Satz {n}" for n in range(9)) + "\n")
    source = find_source("parallel")
    where = Where("train", 1, lambda e, r: None)
    episodes = list(source.read([tmp_path / "a.en", tmp_path / "a.de"], make_options(source, {"similar": 3}), where))
    assert len(episodes) == 9
    for n, episode in enumerate(episodes):
        assert len(episode.entries) == 3
        assert not any(e.text.startswith(english[n] + " =") for e in episode.entries)
        colour = english[n].split()[1:3]
        assert any(w in episode.entries[0].text for w in colour), "the most similar pairs share a word"
    # a line that cannot be used takes its own pair with it and no other
    lines = [f"Satz {n}".encode() for n in range(9)]
    lines[3] = b"\xff"
    (tmp_path / "c.de").write_bytes(b"\n".join(lines) + b"\n")
    errors = []
    held = Where("train", 1, lambda e, r: errors.append(e))
    pairs = {
        e.examples[0].input: e.examples[0].target
        for e in source.read([tmp_path / "a.en", tmp_path / "c.de"], make_options(source, {}), held)
    }
    assert pairs == {english[n]: f"Satz {n}" for n in range(9) if n != 3}
    assert len(errors) == 1
    assert "c.de:4: invalid UTF-8" in str(errors[0])
    (tmp_path / "b.de").write_text("one\n")
    with pytest.raises(DataError, match=r"9 lines, but .*b.de has 1"):
        list(source.read([tmp_path / "a.en", tmp_path / "b.de"], make_options(source, {}), where))


def test_one_unanswerable_question_costs_no_other(tmp_path):
    data = json.loads(SAMPLES["qa"][1])
    data["data"][0]["paragraphs"][0]["qas"].append({"id": "2", "question": "Why?", "answers": []})
    episodes, errors = read("qa", tmp_path, json.dumps(data))
    assert len(episodes[0].examples) == 1
    assert "question 2 has no answer" in str(errors[0])


def test_a_null_where_a_list_belongs_is_no_traceback(tmp_path):
    record = {
        "messages": [{"role": "user", "content": "a", "knowledge": None}, {"role": "bot", "content": "b"}],
        "knowledge": None,
    }
    episodes, errors = read(
        "dialogue", tmp_path, json.dumps(record) + "\n" + '{"messages": [{"role": "user", "content": "a", "knowledge": 7}]}\n'
    )
    assert len(episodes) == 1
    assert "g.jsonl:2" in str(errors[0])


def test_names_of_the_test_never_occur_in_training():
    for language in ("en", "zh"):
        parts = {}
        for split in ("train", "valid", "test"):
            names = people(random.Random(1), 300, language, split, 0.5)
            assert len(set(names)) == 300
            parts[split] = {n.split()[0] if language == "en" else n[1:] for n in names}
        assert not parts["train"] & parts["test"]
        assert not parts["train"] & parts["valid"]


def test_facts_episodes_hold_their_answers():
    for language in ("en", "zh"):
        for episode in facts(language=language):
            episode.validate()
            for example in episode.examples:
                (gold,) = example.evidence
                triple = parse_triple(episode.entries[gold].text)
                assert triple is not None
                assert triple[2] == example.target
                assert triple[0] in example.input
                assert triple[1] in example.input
    assert facts()[0] == facts()[0]
    triples = make_facts(random.Random(1), 1000, "en", "test", FactsOptions())
    assert len({(p, a) for p, a, _ in triples}) == 1000


def test_the_bundled_data_is_there_with_its_licence():
    folder = bundled_folder("dialog_babi")
    assert "Creative Commons" in (folder / "LICENSE.txt").read_text()
    source = find_source("dialog_babi")
    where = Where("test", 1, lambda e, r: pytest.fail(str(e)))
    episodes = list(source.read(folder / "task5-tst.txt.xz", make_options(source, {"reply": "bot"}), where))
    assert len(episodes) == 1000
    assert sum(len(e.examples) for e in episodes) == 18398


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "file", "episodes", "examples"),
    [
        ("kdconv", "kdconv/film/dev.json", 150, 3708),
        ("duconv", "duconv_dev/dev.txt", 2000, 16108),
        ("dialogsum", "dialogsum/train.jsonl", 12460, 12460),
        ("qmsum", "qmsum/ALL/jsonl/val.jsonl", 35, 272),
        ("qa", "cmrc2018/squad-style-data/cmrc2018_trial.json", 256, 1002),
        ("babi", "babi/en/qa1_single-supporting-fact_train.txt", 200, 1000),
    ],
)
def test_public_files_have_their_published_counts(full_data, name, file, episodes, examples):
    source = find_source(name)
    found = list(source.read(full_data / file, make_options(source, {}), Where("train", 1, lambda e, r: None)))
    assert (len(found), sum(len(e.examples) for e in found)) == (episodes, examples)
