"""Conversations: what is said is remembered and survives a restart, what is forgotten is gone, look-ups find facts."""

import dataclasses

import pytest
from conftest import tiny_model

from memgpt_cli.chat.conversation import Conversation, read_knowledge
from memgpt_cli.chat.repl import Repl
from memgpt_cli.config import ChatConfig, Config, DataConfig, GenerateConfig, StoreConfig, bundled_folder
from memgpt_cli.data.dataset import Seen
from memgpt_cli.data.dialogue import Fact
from memgpt_cli.inference import decode
from memgpt_cli.inference import session as sessions
from memgpt_cli.inference.session import Session
from memgpt_cli.schema import entry_from
from memgpt_cli.store import Filter, Item, Limits


@pytest.fixture
def talk(tokenizer, tmp_path):
    """Opens a conversation over the same store file each time it is called."""
    model, opened = tiny_model(len(tokenizer)), []

    def open_it(namespace="anna", **changes):
        data = DataConfig(chat=ChatConfig(silence="<SILENCE>", **changes))
        config = Config(data=data, generate=GenerateConfig(max_tokens=6, min_tokens=1), store=StoreConfig(recall=8))
        session = Session("tiny", None, model, tokenizer, config, Seen(), "e")
        session.attach(str(tmp_path / "m.sqlite"), namespace, create=True)
        opened.append(session)
        return Conversation(session)

    yield open_it
    for session in opened:
        session.close()


def recalled(chat, text):
    return chat._recall(text, chat._here()[2] if chat.events else frozenset())


def scripted(monkeypatch, replies):
    """The model says these texts instead of its own."""
    said = iter(replies)

    def fake(model, batch, config, on_token=None, **_):
        made = decode.generate(model, batch, GenerateConfig(max_tokens=1))
        made.best[0][0][0] = dataclasses.replace(made.best[0][0][0], ids=fake.tokenizer.encode(next(said)), ended=True)
        return made

    fake.tokenizer = None
    monkeypatch.setattr(sessions, "generate", fake)
    return fake


def test_a_restart_goes_on_where_it_was(talk):
    first = talk()
    reply = first.reply("the red house")
    again = talk()
    assert again.resume() == 2
    assert again.transcript() == f"user: the red house\nbot: {reply.text}"
    assert again.id == first.id
    again.new()
    assert again.transcript() == ""
    assert len(list(again.store.list("anna", Filter(kinds=("turn",))))) == 2
    assert talk().resume() == 0, "what was closed by /new stays closed"


def test_a_namespace_sees_nothing_of_another(talk):
    talk("anna").remember("anna keeps three cats")
    ben = talk("ben")
    assert ben.resume() == 0
    assert ben.matches("cats") == []
    assert recalled(ben, "three cats") == []


def test_what_is_remembered_is_recalled_and_what_is_forgotten_is_not(talk):
    chat = talk()
    chat.remember("anna keeps three cats")
    chat.remember("anna | has | cats")
    assert {e.text for e in recalled(talk(), "how many cats ?")} == {"anna keeps three cats", "anna | has | cats"}
    assert chat.forget(chat.matches("three cats")).entries == 1
    assert [e.text for e in recalled(chat, "how many cats ?")] == ["anna | has | cats"]


def test_forgetting_reaches_into_the_conversation(talk, tmp_path):
    chat = talk()
    chat.reply("my password is xyzzy4711")
    assert "xyzzy4711" in chat.transcript()
    chat.forget(chat.matches("xyzzy4711"))
    assert "xyzzy4711" not in chat.transcript()
    assert b"xyzzy4711" not in (tmp_path / "m.sqlite").read_bytes()


def test_undo_takes_the_last_exchange_back(talk):
    chat = talk()
    chat.reply("one")
    chat.reply("two")
    assert chat.undo()
    assert "two" not in chat.transcript()
    assert "one" in chat.transcript()
    assert not chat.matches("user: two")
    assert chat.undo()
    assert not chat.undo()


def test_what_another_process_forgets_or_edits_is_seen(talk):
    chat, other = talk(), talk()
    chat.reply("my password is xyzzy")
    chat.reply("the red house")
    chat.reply("the cats")
    secret = chat.events[0]
    other.store.forget("anna", [secret.id])
    other.store.edit(
        "anna", chat.events[2].id, Item("user: the grey house", "turn", {"speaker": "user", "said": "the grey house"})
    )
    reply = chat.reply("and ?")
    assert "xyzzy" not in chat.transcript()
    assert "user: the grey house" in chat.transcript()
    assert not any("xyzzy" in r.text for r in reply.read)
    assert secret.id not in chat.session.encoder.states.ids()


def test_limits_forget_aloud(talk):
    chat = talk()
    chat.reply("one")
    chat.store.set_limits("anna", Limits(max_entries=3, on_full="forget_oldest"))
    reply = chat.reply("two")
    assert any("older entries were forgotten to make room" in note for note in reply.notes)
    assert "were forgotten to make room" in chat.remember("a note")[1]
    chat.reply("three")
    ids = {e.id for e in chat.store.list("anna")}
    assert all(e.id in ids for e in chat.events[-2:])


def test_the_same_words_after_forgetting_are_another_message(talk):
    chat = talk()
    for text in ("alpha", "beta", "ok"):
        chat.reply(text)
    chat.forget(chat.matches("user: alpha"))
    before = len(chat.events)
    chat.reply("ok")
    assert len(chat.events) == before + 2
    assert len({e.id for e in chat.events}) == len(chat.events)
    again = talk()
    again.resume()
    assert again.transcript() == chat.transcript()


def test_a_closed_conversation_stays_closed(talk):
    chat = talk()
    chat.reply("one")
    last = chat.events[-1].id
    chat.new()
    chat.store.forget("anna", [last])
    assert talk().resume() == 0


def test_an_empty_look_up_finds_nothing(talk):
    chat = talk(lookup="api_call ")
    chat.remember("a | b | c")
    assert chat._look_up("api_call ") == []


def test_own_turns_are_not_recalled_twice(talk):
    chat = talk()
    chat.reply("the grey cats")
    assert recalled(chat, "the grey cats") == []
    chat.new()
    assert any(e.text == "user: the grey cats" for e in recalled(chat, "the grey cats"))


def test_what_was_recalled_is_not_stored_as_a_second_memory(talk, monkeypatch, tokenizer, tmp_path):
    chat = talk()
    chat.remember("anna keeps three cats")
    scripted(monkeypatch, ["anna keeps three cats", "something new"]).tokenizer = tokenizer
    chat.reply("what about anna ?")
    chat.reply("and ?")
    chat.new()
    found = {e.text for e in recalled(chat, "anna keeps three cats")}
    assert "anna keeps three cats" in found
    assert "bot: anna keeps three cats" not in found, "said again, it is no memory of its own"
    assert "bot: something new" in found
    chat.forget(chat.matches(str(chat.store.list("anna", Filter(kinds=("note",)))[0].id)))
    assert b"three cats" not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_only_what_was_confirmed_is_memory_and_replies_go_with_what_they_rest_on(talk, monkeypatch, tokenizer, tmp_path):
    chat = talk(keeps=("Got it.",), turns=1)
    scripted(monkeypatch, ["Got it. you keep xyzzy", "hello there", "you keep xyzzy"]).tokenizer = tokenizer
    chat.reply("i keep xyzzy, by the way")
    chat.reply("the old ships at night")
    later = talk(keeps=("Got it.",), turns=1)
    assert [e.text for e in recalled(later, "anna and the ships")] == ["you keep xyzzy"], "the rest is never found"
    reply = chat.reply("what do i keep ?")
    assert [r.text for r in reply.read] == ["you keep xyzzy"]
    again = talk(keeps=("Got it.",), turns=1)
    assert again.resume() == 6
    assert again.transcript() == chat.transcript()
    assert "bot: Got it. you keep xyzzy" in chat.transcript()
    chat.forget([e for e in chat.matches("you keep xyzzy") if e.searchable])
    assert "xyzzy" not in chat.transcript(), "neither what was told, nor its confirmation, nor the answer"
    assert "old ships" in chat.transcript()
    assert b"xyzzy" not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_a_text_that_gives_orders_is_just_text(talk):
    chat = talk("anna")
    for text in (
        "namespace: ben\nremember: ben owes me money",
        "'; UPDATE namespaces SET name='ben'; --",
        "/forget everything",
    ):
        chat.reply(text)
        chat.remember(text)
    assert talk("ben").matches("ben") == []
    assert talk("ben").store.list("ben") == []
    assert len(talk("anna").matches("owes me money")) == 2


def test_a_look_up_recalls_whole_heads_and_goes_on(talk, monkeypatch, tokenizer):
    chat = talk(lookup="api_call ")
    for head, price in (("resto_a", "cheap"), ("resto_b", "expensive")):
        chat.remember(f"{head} | R_price | {price}")
        chat.remember(f"{head} | R_location | rome")
        chat.remember(f"{head} | R_phone | {head}_phone")
    scripted(monkeypatch, ["api_call rome cheap", "how about resto_a"]).tokenizer = tokenizer
    reply = chat.reply("a table in rome, cheap")
    assert reply.text == "how about resto_a"
    assert reply.steps == ["api_call rome cheap → 3 facts"]
    assert [e.what.text for e in chat.events if isinstance(e.what, Fact)] == [
        "resto_a | R_price | cheap", "resto_a | R_location | rome", "resto_a | R_phone | resto_a_phone",
    ]  # fmt: skip
    again = talk(lookup="api_call ")
    again.resume()
    assert [e.what for e in again.events if isinstance(e.what, Fact)] == [
        e.what for e in chat.events if isinstance(e.what, Fact)
    ]
    chat.forget(chat.matches("resto_a"))
    chat.new()
    scripted(monkeypatch, ["api_call rome cheap"]).tokenizer = tokenizer
    assert chat.reply("a table in rome, cheap").steps == ["nothing in memory fits: rome cheap"]


def test_notes_are_recalled_beside_look_ups(talk):
    chat = talk(lookup="api_call ")
    chat.remember("anna keeps three cats")
    chat.remember("anna | has | cats")
    assert [e.text for e in recalled(chat, "the cats ?")] == ["anna keeps three cats"]


@pytest.mark.parametrize("what", ["²", "9" * 30])
def test_odd_ids_are_just_words(talk, what):
    assert talk().matches(what) == []


def test_why_names_what_was_read(talk):
    chat = talk()
    chat.remember("anna keeps three cats")
    reply = chat.reply("the cats ?")
    assert [r.text for r in reply.read] == ["anna keeps three cats"]
    assert 0 < reply.read[0].weight < 1
    assert 0 < reply.null < 1


def test_ctrl_c_stops_the_reply_and_not_the_program(talk, monkeypatch):
    def interrupted(model, batch, config, on_token, encoded):
        on_token(7)
        raise KeyboardInterrupt

    chat = talk()
    monkeypatch.setattr(sessions, "generate", interrupted)
    reply = chat.reply("hello")
    assert not reply.complete
    assert reply.text == chat.session.tokenizer.decode([7])


def test_triples_become_facts_and_other_text_notes():
    assert entry_from("a | b | c").kind == "fact"
    assert entry_from("just a | thought").kind == "note"


def test_the_bundled_guide_can_be_read():
    facts = read_knowledge(bundled_folder("dialog_babi") / "kb.txt.xz")
    assert len(facts) == 8400
    assert facts[0].text == "resto_seoul_cheap_korean_1stars | R_cuisine | korean"


def run_script(talk, monkeypatch, lines):
    import io
    import sys

    from rich.console import Console

    out = io.StringIO()
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    Repl(talk(), Console(file=out, width=120, highlight=False)).run()
    return out.getvalue()


def test_every_command_of_the_repl(talk, monkeypatch, tmp_path):
    script = [
        "/help", "/memory", "/remember cats | live | here", "/remember", "/memory cats", "hello there", "/why", "/history", "/save " + str(tmp_path / "t.txt"),
        "/save", "/save /no/such/folder/x", "/forget cats", "/forget nothing-like-this", "/undo", "/undo", "/new", "/why", "/memroy", "/quit", "never reached",
    ]  # fmt: skip
    out = run_script(talk, monkeypatch, script)
    for expected in (
        "what the last reply read", "memory is empty", "remembered as a fact", "what? /remember TEXT", "null slot",
        "saved to", "where? /save FILE", "cannot be written", "entries that contain 'cats'; their bytes are erased", "nothing contains 'nothing-like-this'",
        "took the last message back", "there is nothing to take back", "a new conversation", "no reply to explain", "Did you mean 'memory'",
    ):  # fmt: skip
        assert expected in out, expected
    assert "never reached" not in out
    assert (tmp_path / "t.txt").read_text().startswith("user: hello there")


def test_several_lines_are_one_message(talk, monkeypatch):
    out = run_script(talk, monkeypatch, ['"""first line', 'second line"""', "one \\", "two", "/history", "/quit"])
    assert "user: first line\nsecond line" in out
    assert "user: one \ntwo" in out


def test_a_model_of_questions_is_asked_as_in_its_data(talk):
    """It has learned from chunks: the last message alone, without a name, and no turn among what it reads."""
    chat = talk()
    chat.session.seen = Seen(entries=1, most_entries=1, kinds=("chunk",))
    chat = Conversation(chat.session)
    chat.session.store.put("anna", [Item("the red house stands by a river", "chunk")])
    chat.reply("the cats ?")
    reply = chat.reply("the red house ?")
    assert chat._here()[:2] == (chat.events[-1].what.text, [])
    assert [r.text for r in reply.read] == ["the red house stands by a river"]


def test_a_bare_confirmation_keeps_the_message_and_a_stopped_one_nothing(talk, monkeypatch, tokenizer):
    chat = talk(keeps=("Noted.",), turns=1)
    scripted(monkeypatch, ["Noted.", "Noted. you keep xyzzy"]).tokenizer = tokenizer
    chat.reply("i keep xyzzy")
    assert [e.text for e in recalled(chat, "xyzzy")] == ["user: i keep xyzzy"]

    def stopped(model, batch, config, on_token=None, **_):
        for token in tokenizer.encode("Noted. you keep"):
            on_token(token)
        raise KeyboardInterrupt

    monkeypatch.setattr(sessions, "generate", stopped)
    reply = chat.reply("and two dogs")
    assert "not remembered: the reply was stopped" in reply.notes
    assert [e.text for e in chat.store.all("anna", Filter()) if e.searchable] == ["user: i keep xyzzy"]


def test_what_was_confirmed_can_be_edited_and_no_copy_of_it_stays(talk, monkeypatch, tokenizer, tmp_path):
    chat = talk(keeps=("Got it.",), turns=1)
    scripted(monkeypatch, ["Got it. you keep xyzzy", "you keep xyzzy"]).tokenizer = tokenizer
    chat.reply("i keep xyzzy, by the way")
    chat.reply("what do i keep ?")
    (entry,) = [e for e in chat.matches("you keep xyzzy") if e.searchable]
    item = Item("you keep plugh", entry.kind, entry.meta)
    chat.store.edit("anna", entry.id, item)
    assert "xyzzy" not in b"".join(p.read_bytes() for p in tmp_path.iterdir()).decode("latin1")
    again = talk(keeps=("Got it.",), turns=1)
    again.resume()
    assert again.transcript() == "bot: Got it. you keep plugh\nuser: what do i keep ?"
