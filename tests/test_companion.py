"""The companion's lives: what is held out stays out, what is answered is true, and only what was confirmed is memory."""

import json
import random
import re
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import tiny_model
from safetensors.torch import save_file

from memgpt_cli.bench.companion import ASKED, _ask, _Tally, measure_companion
from memgpt_cli.bench.conversations import hold_conversations, read_conversations
from memgpt_cli.bench.results import results_page
from memgpt_cli.config import (
    AugmentConfig,
    ChatConfig,
    Config,
    DataConfig,
    GenerateConfig,
    RenameConfig,
    TokenizerConfig,
    TrainerConfig,
    to_dict,
)
from memgpt_cli.data.companion.life import Life
from memgpt_cli.data.companion.slots import Slot, agreeing, answered, by_other_words, fill, roles, said
from memgpt_cli.data.companion.typed import as_we
from memgpt_cli.data.companion.values import in_words, make_value
from memgpt_cli.data.companion.wordings import LANGUAGES, kept, of_split, phrases, relations, talk, value_lists
from memgpt_cli.data.dataset import EpisodeDataset, Seen
from memgpt_cli.data.dialogue import Dialogue, Turn, confirmed
from memgpt_cli.data.preprocess import preprocess
from memgpt_cli.data.sources import Where, find_source, make_options
from memgpt_cli.errors import ConfigError, DataError, UsageError
from memgpt_cli.inference.session import Reply, Session
from memgpt_cli.schema import Example
from memgpt_cli.tokenizer import load_tokenizer
from memgpt_cli.training.batches import EpisodeData

SMALL = {"tells": 12, "tells_min": 6, "episodes_train": 24, "episodes_valid": 8, "episodes_test": 8}
KINDS = ("tell", "ask", "update", "before", "first")


def lives(split="train", seed=1, **options):
    source = find_source("companion")
    made = make_options(source, {**SMALL, **options})
    return list(source.read(None, made, Where(split, seed, lambda e, r: None)))


def pattern(wording):
    """A wording with anything where its placeholders stand."""
    return re.compile(".+?".join(map(re.escape, re.split(r"\{[kx]\}", wording))))


def test_lives_are_sound_and_a_function_of_the_seed():
    episodes = lives()
    for episode in episodes:
        episode.validate()
    assert episodes == lives()
    assert episodes != lives(seed=2)


def test_every_relation_is_told_and_asked_in_twelve_wordings_and_more():
    assert len(relations()) >= 60
    for relation in relations().values():
        for language in LANGUAGES:
            words = relation.words[language]
            for kind in ("tell", "ask"):
                wordings = getattr(words, kind)
                assert len(set(wordings)) >= 12, (relation.id, language, kind)
            assert "{x}" in words.say
            assert all("{x}" in wording for wording in (*words.tell, *words.update)), relation.id
            assert not any("{x}" in wording for wording in (*words.ask, *words.before, *words.first)), relation.id
            keyed = [("{k}" in wording) == bool(relation.key) for wording in (*words.tell, *words.ask)]
            assert all(keyed), (relation.id, language)


def test_no_wording_belongs_to_two_splits_and_a_third_to_none_of_training():
    for relation in relations().values():
        for language in LANGUAGES:
            for kind in KINDS:
                wordings = getattr(relation.words[language], kind)
                if not wordings:
                    continue
                dealt = [of_split(wordings, split) for split in ("train", "valid", "test")]
                assert sum(map(len, dealt)) == len(wordings)
                assert not set(dealt[0]) & set(dealt[1]) | set(dealt[0]) & set(dealt[2]) | set(dealt[1]) & set(dealt[2])
                assert len(dealt[0]) <= 2 * len(wordings) / 3, (relation.id, kind)


def test_no_name_of_one_split_is_made_in_another():
    for kind, lists in value_lists().items():
        for language in lists:
            made = {
                split: {make_value(kind, random.Random(n), language, split, "", 0.0) for n in range(300)}
                for split in ("train", "test")
            }
            assert not made["train"] & made["test"], (kind, language)


def test_questions_of_held_out_wordings_never_stand_in_training():
    """Without slips, a held-out wording would be seen in training's inputs as it is written."""
    said = "\n".join(x.input for e in lives(episodes_train=60) for x in e.examples)
    for relation in ("cat_name", "job", "home_city"):
        for language in LANGUAGES:
            for wording in of_split(relations()[relation].words[language].ask, "test"):
                assert f"user: {wording}\n" not in said + "\n"


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_language_can_be_asked_for(language):
    texts = [x.target for e in lives(language=language) for x in e.examples]
    chinese = [bool(re.search(r"[\u4e00-\u9fff]", text)) for text in texts]
    assert all(chinese) if language == "zh" else sum(chinese) < 0.05 * len(texts), "an English life may hold a Chinese name"


def test_only_what_a_reply_confirms_is_memory():
    for episode in lives(beside=0):
        kept_ = "|".join(map(re.escape, kept()))
        said = [re.sub(f"^({kept_}) *", "", x.target) for x in episode.examples if x.target.startswith(kept())]
        if not episode.id.endswith("forgotten"):
            assert [e.text for e in episode.entries] == said


def test_a_life_beside_others_is_told_and_asked_of_nobody_who_was_there_before():
    for seed in range(30):
        life = Life(random.Random(seed), LANGUAGES[seed % 2], "train")
        life.beside(20)
        before = len(life.dialogue.entries)
        assert before >= 20
        life.live(10)
        assert not {slot.key for slot in life.told} & life.strangers
        assert all(told.entry >= before for mine in life.told.values() for told in mine)
        life.episode("").validate()


@pytest.mark.parametrize(
    ("language", "told", "asked", "reply", "knows"),
    [
        ("en", "My sister lives in Oslo.", "Where does my sister live?", "Your sister lives in Oslo.", "person_city"),
        ("zh", "我姐姐住在奥斯陆。", "我姐姐住在哪个城市？", "你姐姐住在奥斯陆。", "person_city"),
    ],
)
def test_a_role_stands_for_a_name_and_is_the_persons_own_in_the_reply(language, told, asked, reply, knows):
    relation = relations()[knows]
    sister, value, words = roles(language)["sister"], {"en": "Oslo", "zh": "奥斯陆"}[language], relation.words[language]
    assert fill(words.say, answered(sister, language), value) == reply
    assert any(fill(w, sister, value).capitalize() == told.capitalize() for w in words.tell)
    assert any(fill(w, sister, "") == asked for w in words.ask)
    assert {said(sister, random.Random(n), language) for n in range(20)} == {*phrases()[language]["roles"]["sister"]}


@pytest.mark.parametrize(
    ("one", "several"),
    [
        ("I put my {k} {x}.", "We put our {k} {x}."),
        ("I'm home, where am I parked?", "We're home, where are we parked?"),
        ("Tell me what I was given, it is mine.", "Tell us what we were given, it is ours."),
        ("Imagine, Mia lives {x}", "Imagine, Mia lives {x}"),
    ],
)
def test_one_of_several_tells_of_what_they_share(one, several):
    assert as_we(one, "en") == several


def test_in_chinese_one_of_several_tells_of_what_they_share():
    assert as_we("我把我们的{k}放在我家", "zh") == "我们把我们的{k}放在我们家"


@pytest.mark.parametrize(
    ("key", "said_of_it"),
    [
        ("keys", "Your keys are here, where are my keys, they're gone, and they aren't."),
        ("glass", "Your glass is here, where is my glass, it's gone, and they aren't."),
    ],
)
def test_several_things_are(key, said_of_it):
    slot = Slot(relations()["thing_place"], key)
    assert agreeing("Your {k} is here, where is my {k}, it's gone, and they aren't.", slot).replace("{k}", key) == said_of_it


def test_numbers_in_words():
    assert [in_words(n, "en") for n in (0, 12, 20, 47, 99)] == ["zero", "twelve", "twenty", "forty-seven", "ninety-nine"]
    assert [in_words(n, "zh") for n in (0, 7, 10, 12, 20, 47, 99)] == ["零", "七", "十", "十二", "二十", "四十七", "九十九"]


@pytest.mark.parametrize(("language", "end"), [("en", ". "), ("zh", "。")])
def test_what_is_told_of_one_person_in_one_message_is_all_confirmed_and_asked_of_them(language, end):
    life = Life(random.Random(4), language, "train", invented=0.0)
    while not (found := [slots for slots in _told_at_once(life) if len({slot.key for slot in slots if slot.key}) == 1]):
        life.tell_of_a_relative()
    entry = next(told[0].entry for slot, told in life.told.items() if slot in found[0])
    text = life.dialogue.entries[entry].text
    for slot in found[0]:
        words = slot.relation.words[language].say
        assert fill(words, answered(slot.key, language), answered(life.told[slot][0].value, language)).rstrip(end) in text


def _told_at_once(life):
    """Slots that one message told, by message."""
    by_entry = defaultdict(list)
    for slot, told in life.told.items():
        by_entry[told[0].entry].append(slot)
    return [slots for slots in by_entry.values() if len(slots) > 1]


def test_nobody_is_told_of_by_name_and_by_role():
    """Else a question would have two true answers."""
    by_role = 0
    for language in LANGUAGES:
        for seed in range(40):
            life = Life(random.Random(seed), language, "train")
            life.live(40)
            by_role += sum(slot.key in roles(language).values() for slot in life.told)
            assert not [s for s in life.told for other in by_other_words(s, life.told, language) if other in life.told]
            for example in life.examples:
                assert not re.search(r"\b(my|My) (sister|boss|son)\b|我(姐姐|老板|儿子)", example.target), example
    assert by_role > 20


def test_a_made_up_value_is_never_one_of_another_split():
    lists = value_lists()
    listed = {v for kind in lists for v in lists[kind]["en"]}
    ours = {make_value(kind, random.Random(n), "en", "train", "", 0.0) for kind in lists for n in range(2000)}
    made = {make_value(kind, random.Random(n), "en", "train", "", 1.0) for kind in lists for n in range(200)}
    assert any(" " in value and value.split()[0] in {v.split()[0] for v in ours} for value in made - ours), "some in part only"
    assert not made & (listed - ours)


@pytest.mark.parametrize("after", ["", " ", "\n"])
def test_a_confirmation_is_taken_apart_so_that_it_can_be_put_together(after):
    memory = confirmed(Turn("user", "i keep cats"), Turn("bot", "Got it.  you keep cats" + after), ("Got it.",))
    assert (memory.kept, memory.entry.text) == ("Got it.  ", "you keep cats")
    assert (
        confirmed(Turn("user", "i keep cats"), Turn("bot", "Got it." + after), ("Got it.",)).entry.text == "user: i keep cats"
    )
    assert confirmed(Turn("user", "i keep cats"), Turn("bot", "you keep cats"), ("Got it.",)) is None


def test_answers_are_true_of_what_was_told():
    """Read back by a plain dict: of each thing that has one value, the answer says the one last told."""
    relation = relations()["cat_name"]
    say = {language: pattern(relation.words[language].say) for language in LANGUAGES}
    checked = 0
    for episode in lives(relations=("cat_name", "wifi_password"), episodes_train=80):
        if episode.id.endswith("forgotten"):
            continue
        last = {}
        for example in episode.examples:
            language = "zh" if re.search(r"[\u4e00-\u9fff]", example.target[:4]) else "en"
            head = phrases()[language]["kept"]
            said = say[language].search(example.target.removeprefix(head))
            if said is None:
                continue
            if example.target.startswith(head):
                last[language] = said.group()
            elif example.task.rstrip("+") in ("extraction", "update"):
                assert said.group() == last[language]
                checked += 1
    assert checked > 20


def test_evidence_holds_what_is_answered_and_abstaining_rests_on_nothing():
    abilities = defaultdict(int)
    for episode in lives(episodes_train=60):
        for example in episode.examples:
            ability = example.task.rstrip("+")
            abilities[ability] += 1
            assert all(n < example.sees for n in example.evidence)
            if ability in ("extraction", "update", "list"):
                assert example.evidence
            if ability in ("after forgetting", "outside", "talk"):
                assert not example.evidence
    wanted = {
        "telling",
        "extraction",
        "update",
        "time",
        "two facts",
        "list",
        "abstention",
        "after forgetting",
        "outside",
        "talk",
    }
    assert wanted <= set(abilities)


def test_what_was_forgotten_is_in_no_entry():
    seen = 0
    for episode in lives("test", episodes_test=20):
        if episode.id.endswith("forgotten"):
            for example in episode.examples:
                assert example.sees == len(episode.entries)
                seen += example.task.startswith("after forgetting")
    assert seen > 10


def test_tasks_of_held_out_wordings_are_marked():
    tasks = {x.task for e in lives("test", episodes_test=24) for x in e.examples}
    assert {"extraction", "extraction+"} <= tasks
    assert not any(x.task.endswith("+") for e in lives() for x in e.examples)


def test_talk_has_a_reply_for_each_of_its_sayings():
    for one in talk().values():
        for language in LANGUAGES:
            assert one.reply[language]
            assert len(set(one.says[language])) >= 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relations": ["cat_nme"]}, "'cat_nme' is none. Did you mean 'cat_name'"),
        ({"language": "de"}, "expected en, zh or both"),
        ({"tells_min": 20}, "expected 1 to 12"),
        ({"forgetting": 2.0}, "expected 0 to 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        lives(**options)


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    options = {**SMALL, "relations": ["cat_name", "wifi_password"], "episodes_train": 60}
    rename = RenameConfig(auto=True)
    chat = ChatConfig(turns=1, keeps=kept())
    config = DataConfig(
        name="companion", source="companion", path="", options=options, tokenizer=TokenizerConfig(vocab_size=900, characters=True, coverage=0.99),
        augment=AugmentConfig(rename=rename), chat=chat,
    )  # fmt: skip
    return preprocess(config, tmp_path_factory.mktemp("data")).folder, config


def test_validation_has_a_copy_with_names_never_seen(small_data):
    folder, config = small_data
    settings = Config(data=config, trainer=TrainerConfig(batch_tokens=2000, val_batches=3))
    data = EpisodeData(folder, settings)
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0)
    (plain, renamed), (_, again) = ([list(loader) for loader in data.val_dataloader()] for _ in range(2))
    assert len(plain) == len(renamed) == 3
    for a, b, c in zip(plain, renamed, again, strict=True):
        assert a.examples == b.examples
        assert b.targets.equal(c.targets), "the same copy each time"

    def said(batches):
        return [data.tokenizer.decode(ids.tolist()) for batch in batches for row in batch.targets for ids in row]

    changed = [(a, b) for a, b in zip(said(plain), said(renamed), strict=True) if a != b]
    names = [a for a in said(plain) if "Your cat is called" in a]
    assert names
    assert not set(names) & set(said(renamed))
    assert all(("Got it." in a) == ("Got it." in b) for a, b in changed), "what replies say by themselves stays"


def test_a_conversation_reads_what_the_companion_learned_from(small_data, tmp_path):
    """Every example of an episode, as a chat builds it from the turns before, is the example on disk."""
    folder, config = small_data
    checked = 0
    for row in EpisodeDataset(folder / "test"):
        if row.id.endswith("forgotten"):
            continue
        dialogue = Dialogue(config.chat.turns, config.chat.keeps)
        for n, example in enumerate(row.examples):
            dialogue.add(Turn(config.chat.user, example.input.removeprefix(f"{config.chat.user}: ")))
            assert dialogue.asks() == (example.input, example.sees)
            assert [e.text for e in dialogue.entries[: example.sees]] == [e.text for e in row.entries[: example.sees]], n
            dialogue.add(Turn(config.chat.bot, example.target))
            checked += 1
    assert checked > 50


def test_the_benchmark_tells_lives_among_others_and_forgets_them(small_data):
    folder, config = small_data
    tokenizer = load_tokenizer(folder)
    settings = Config(data=config, generate=GenerateConfig(max_tokens=4, min_tokens=1))
    session = Session("tiny", None, tiny_model(len(tokenizer)), tokenizer, settings, Seen(kinds=("turn",), entries=6), "e")
    few, more = measure_companion(session, [0, 9], 2, seed=1)
    assert (few.others, more.others) == (0, 9)
    assert few.asked == more.asked > 2 * ASKED
    assert few.after_forgetting > 0
    assert set(few.exact) == set(more.exact) > {"all", "after forgetting"}
    with pytest.raises(UsageError, match="memgpt bench companion asks a run of data=companion"):
        measure_companion(
            Session("t", None, session.model, tokenizer, Config(data=DataConfig(source="facts")), Seen(), "e"), [0], 1, 1
        )


def test_the_benchmark_knows_right_answers_false_memories_and_leaks():
    said = iter(["Your cat is called Tom.", "Your cat is called Tim.", "You have not told me your name.", "It was Tom."])
    session = SimpleNamespace(answer=lambda questions: [SimpleNamespace(text=next(said))])
    unknown = "You have not told me what your cat is called."
    examples = [
        Example("q", "Your cat is called Tom.", 1, task="extraction"),
        Example("q", unknown, 1, task="abstention+"),
        Example("q", unknown, 1, task="after forgetting"),
        Example("q", unknown, 1, task="after forgetting"),
    ]
    tally = _Tally()
    _ask(session, examples, tally, frozenset({"Tom"}))
    row = tally.row(7)
    assert row.exact == {"abstention+": 0.0, "after forgetting": 0.0, "extraction": 100.0, "all": 25.0}
    assert row.false_memories == pytest.approx(200 / 3), "to abstain in other words is no false memory"
    assert (row.leaks, row.after_forgetting) == (1, 2)


def test_conversations_of_the_users_own_are_held_and_counted(small_data, tmp_path, monkeypatch):
    folder, config = small_data
    tokenizer = load_tokenizer(folder)
    settings = Config(data=config, generate=GenerateConfig(max_tokens=4, min_tokens=1))
    session = Session("tiny", None, tiny_model(len(tokenizer)), tokenizer, settings, Seen(kinds=("turn",), entries=6), "e")
    replies = iter(["Got it. Your cat is called Tom.", "Your cat is called Tim.", "Got it. Rain.", "Your cat is called TOM."])
    read = []

    def answer(prompts, on_token=None):
        read.append([entry.text for entry in prompts[0].entries])
        return [Reply(next(replies))]

    monkeypatch.setattr(session, "decode", answer)
    file = tmp_path / "mine.jsonl"
    asked = {"say": "my cat?", "kind": "ask", "expect": ["Tom"], "keeps": False}
    told = {"say": "My cat is Tom.", "kind": "tell", "expect": ["Tom"], "keeps": True}
    talk = {"say": "Rain again.", "kind": "talk", "keeps": False}
    file.write_text("\n".join(json.dumps({"messages": m}) for m in ([told, asked, talk], [asked])) + "\n\n")
    held = hold_conversations(session, read_conversations(file))
    assert (held.right, held.asked) == ({"tell": 1, "ask": 1, "talk": 0}, {"tell": 1, "ask": 2, "talk": 1})
    assert [(wrong.say, wrong.reply) for wrong in held.wrong] == [
        ("my cat?", "Your cat is called Tim."),
        ("Rain again.", "Got it. Rain."),
    ]
    assert read == [[], ["Your cat is called Tom."], ["Your cat is called Tom."], []], "each begins with an empty memory"


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_conversations_of_the_docs_ask_only_for_what_they_told(name):
    conversations = read_conversations(Path(__file__).parent.parent / "docs" / "conversations" / f"{name}.jsonl")
    assert len(conversations) == 40
    for messages in conversations:
        told = ""
        for message in messages:
            if message.kind.startswith("unknown"):
                continue
            told += message.say.casefold() if message.kind.startswith("tell") else ""
            assert all(each.casefold() in told for each in message.expect), message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "mine.jsonl:2: broken JSON: Expecting property name"),
        ('{"messages": []}', 'mine.jsonl:2: expected {"messages"'),
        ('{"messages": [{"said": "x"}]}', 'a message without "say"'),
        ('{"messages": [{"say": "x", "expects": []}]}', "with expects, expected expect, keeps, kind, say"),
        ('{"messages": [{"say": "x", "expect": "y"}]}', "is a list of texts"),
        ('{"messages": [{"say": "x", "keeps": "yes"}]}', "is true or false"),
    ],
)
def test_a_conversation_that_is_none_is_named_by_its_line(line, message, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"messages": [{"say": "hi"}]}\n' + line)
    with pytest.raises(DataError, match=re.escape(message)):
        read_conversations(file)
    with pytest.raises(UsageError, match="there is no file"):
        read_conversations(tmp_path / "other.jsonl")


def test_results_are_the_runs_own_json(tmp_path):
    model = tiny_model(300)
    run = tmp_path / "mine"
    (run / "eval").mkdir(parents=True)
    (run / "model").mkdir()
    config = to_dict(Config()) | {"given": ["data=companion", "run=mine"]}
    (run / "config.json").write_text(json.dumps(config))
    (run / "model" / "config.json").write_text(json.dumps({"notes": {"step": 7}}))
    save_file(model.state_dict(), run / "model" / "model.safetensors")
    with pytest.raises(UsageError, match="memgpt eval --run mine"):
        results_page([run], "x")
    score = {"name": "exact", "value": 51.25, "low": 46.2, "high": 56.0, "n": 400}
    (run / "eval" / "test-scores.json").write_text(
        json.dumps({"learned": [score], "empty": [{**score, "low": None, "high": None}]})
    )
    (run / "eval" / "bench-companion.json").write_text(
        json.dumps([{"others": 10, "exact": {"all": 5.0}}, {"others": 100_000, "exact": {}}])
    )
    (run / "eval" / "bench-conversations-my-own.json").write_text(json.dumps([{"messages": 2, "right": {"all": 50.0}}]))
    page = results_page([run], "memgpt bench results mine")
    assert "`memgpt bench companion`:" in page
    assert "`memgpt bench conversations my-own.jsonl`:" in page
    assert "`memgpt train data=companion run=mine` · 0.0" in page
    assert "| exact | 51.25 [46.2, 56.0] (n=400) | 51.25 (n=400) |" in page
    assert "| others | 10 | 100,000 |" in page
    assert "| exact: all | 5.0 | – |" in page
