"""The chat's read-eval-print loop: commands, history, several lines, Ctrl-C for a reply."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memgpt_cli.chat.conversation import NEXT_REPLY, Conversation
from memgpt_cli.errors import MemgptError, Terminated, did_you_mean, in_words
from memgpt_cli.files import writing
from memgpt_cli.inference.session import Reply
from memgpt_cli.store import Filter

HELP = {
    "/help": "this list",
    "/memory [WORDS]": "what is remembered (that contains these words)",
    "/remember TEXT": "keep a note; `head | relation | tail` is kept as a fact",
    "/forget WORDS or ID": "erase what contains these words, physically, also from this conversation",
    "/why": "what the last reply read, with its weight",
    "/history": "this conversation",
    "/undo": "take the last message and its reply back",
    "/new": "begin a new conversation; the memory stays",
    "/save FILE": "write this conversation to a file",
    "/quit": "leave (Ctrl-D does too)",
}
MULTILINE = '"""'


class Repl:
    def __init__(self, conversation: Conversation, console: Console) -> None:
        self.conversation, self.console = conversation, console
        self.interactive = sys.stdin.isatty() and console.is_terminal
        self.commands: dict[str, Callable[[str], bool | None]] = {
            "help": self.help, "memory": self.memory, "remember": self.remember, "forget": self.forget, "why": self.why,
            "history": self.history, "undo": self.undo, "new": self.new, "save": self.save, "quit": self.quit, "exit": self.quit,
        }  # fmt: skip

    def say(self, text: str, style: str = "dim") -> None:
        self.console.print(f"[{style}]{escape(text)}[/]")

    def run(self) -> None:
        """Until /quit or the end of the input."""
        while True:
            try:
                if self.step(self.read()) is False:
                    break
            except EOFError:
                break
            except MemgptError as error:  # what could not be done is said, and the conversation goes on
                self.say(str(error), "red")
            except Terminated:
                raise
            except KeyboardInterrupt:
                self.say("(type /quit to leave)")

    def step(self, line: str) -> bool | None:
        """One line of input; False ends the conversation."""
        if line.startswith("#") and not self.interactive:
            self.say(line, "italic")
        elif line.startswith("/") and not line.startswith("//"):
            return self.command(line)
        elif line.strip() or self.conversation.config.silence:
            self.answer(line)
        return None

    def read(self) -> str:
        prompt = "you> " if self.interactive else ""
        line = input(prompt)
        if not self.interactive and not line.startswith("#"):  # a transcript needs both sides; "#" begins a comment in a script
            self.console.print(f"[bold]you>[/] {escape(line) or '[dim](says nothing)[/]'}")
        if line.startswith(MULTILINE):
            lines = [line.removeprefix(MULTILINE)]
            while not lines[-1].endswith(MULTILINE):
                lines.append(input("...> " if self.interactive else ""))
            return "\n".join(lines).removesuffix(MULTILINE).strip("\n")
        while line.endswith("\\"):
            line = line[:-1] + "\n" + input("...> " if self.interactive else "")
        return line

    def answer(self, line: str) -> None:
        begun: list[str] = []

        def show(text: str) -> None:
            if text == NEXT_REPLY and begun:  # a look-up was said, and is followed up
                self.console.print("")
                begun.clear()
            elif self.interactive:
                self.console.print(f"[bold green]bot>[/] {escape(text)}" if not begun else escape(text), end="")
                begun.append(text)

        reply = self.conversation.reply(line, show)
        if self.interactive:
            self.console.print("" if reply.complete else " [dim](stopped)[/]")
        self._after(reply, streamed=bool(begun))

    def _after(self, reply: Reply, streamed: bool) -> None:
        if not streamed:
            self.console.print(f"[bold green]bot>[/] {escape(reply.text)}")
        for step in reply.steps:
            self.say(f"     ({step})")
        for note in reply.notes:
            self.say(f"     ({note})", "yellow")

    def command(self, line: str) -> bool | None:
        name, _, rest = line[1:].partition(" ")
        action = self.commands.get(name)
        if action is None:
            self.say(f"/{name} is no command.{did_you_mean(name, self.commands)} /help lists them.", "yellow")
            return None
        return action(rest.strip())

    def help(self, rest: str) -> None:
        for name, what in HELP.items():
            self.console.print(f"  [bold]{escape(name):<22}[/] {escape(what)}")
        self.say(f"  several lines: end a line with \\ or put them between {MULTILINE}; Ctrl-C stops a reply")

    def memory(self, rest: str) -> None:
        store, owner = self.conversation.store, self.conversation.namespace
        found = list(store.all(owner, Filter(contains=rest)))
        entries = [e for e in found if e.searchable]
        if not found:
            self.say(f"nothing about '{rest}' in memory" if rest else "memory is empty: /remember TEXT keeps something")
            return
        table = Table("id", "kind", "entry", "since", box=None)
        for entry in entries[-40:]:
            table.add_row(str(entry.id), entry.kind, escape(entry.text), entry.created)
        if entries:
            self.console.print(table)
        if lines := len(found) - len(entries):
            self.say(f"and {lines} lines of conversation, which are never recalled (/history)")
        if len(entries) > 40:
            self.say(f"the newest 40 of {len(entries)}: /memory WORDS narrows it")

    def remember(self, rest: str) -> None:
        if not rest:
            self.say("what? /remember TEXT", "yellow")
            return
        entry, room = self.conversation.remember(rest)
        self.say(f"remembered as a {entry.kind}" + (f": {entry.text}" if self.interactive else ""))
        if room:
            self.say(room, "yellow")

    def forget(self, rest: str) -> None:
        found = self.conversation.matches(rest) if rest else []
        if not found:
            self.say(f"nothing contains '{rest}'" if rest else "what? /forget WORDS or ID", "yellow")
            return
        if self.interactive and len(found) > 1:
            for entry in found[:10]:
                self.say(f"  {entry.id}: {entry.text}")
            if input(f"forget these {len(found)} entries for good? [y/N] ").strip().lower() not in ("y", "yes"):
                self.say("kept")
                return
        receipt = self.conversation.forget(found)
        done = "their bytes are erased" if receipt.state == "erased" else f"not yet erased: {receipt.reason}"
        which = f"entry {rest}" if found[0].id == _id(rest) else f"entries that contain '{rest}'"
        self.say(f"forgot {receipt.entries} {which}; {done}" if "that" in which else f"forgot {which}; {done}")

    def why(self, rest: str) -> None:
        last = self.conversation.last
        if last is None:
            self.say("there is no reply to explain yet", "yellow")
            return
        table = Table("weight", "kind", "entry", box=None)
        for read in last.read[:10]:
            if read.weight >= 0.001:
                table.add_row(f"{read.weight:.3f}", read.kind, escape(read.text))
        self.console.print(table)
        rest_of_it = 1 - last.null - sum(r.weight for r in last.read)
        self.say(
            f"  its own input {rest_of_it:.3f} · nothing (null slot) {last.null:.3f} · {len(last.read)} entries could be read"
        )

    def history(self, rest: str) -> None:
        self.console.print(escape(self.conversation.transcript()) or "[dim]nothing said yet[/]")

    def undo(self, rest: str) -> None:
        self.say("took the last message back" if self.conversation.undo() else "there is nothing to take back")

    def new(self, rest: str) -> None:
        self.conversation.new()
        self.say("a new conversation; the memory stays")

    def save(self, rest: str) -> None:
        if not rest:
            self.say("where? /save FILE", "yellow")
            return
        try:
            with writing(Path(rest).expanduser(), reads=self.conversation.reads) as file:
                file.write(self.conversation.transcript() + "\n")
        except (OSError, RuntimeError, ValueError) as error:  # a place that cannot be: ~nobody, a link in a circle, a NUL
            self.say(in_words(error) or f"{rest!r} is no place for a file", "red")
            return
        self.say(f"saved to {rest}")

    def quit(self, rest: str) -> bool:
        return False


def _id(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 18 else -1


def run_repl(conversation: Conversation, new: bool, console: Console) -> None:
    """Runs a conversation until its end; line editing and history where `readline` is there."""
    repl = Repl(conversation, console)
    resumed = 0 if new else conversation.resume()
    stats = conversation.store.stats(conversation.namespace)
    going_on = f", going on after {resumed} turns (/new begins afresh)" if resumed else ""
    known = f", {len(conversation.knowledge):,} facts to look up" if conversation.knowledge else ""
    remembered = stats.without_vector + stats.encoders.get(conversation.session.fingerprint, 0)  # lines of talk are none
    repl.say(f"{conversation.namespace}: {remembered} entries in memory{known}{going_on}. /help")
    if repl.interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  line editing and the history of this session; kept nowhere, so nothing is left of it
    try:
        repl.run()
    finally:
        conversation.session.close()
