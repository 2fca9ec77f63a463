"""memgpt data."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from memgpt_cli.cli.app import DATA_ROOT, HELP, Json, app, console, print_json

if TYPE_CHECKING:
    from memgpt_cli.data.dataset import EncodedEpisode

data = typer.Typer(context_settings=HELP, no_args_is_help=True, help="Data sets: look at what a model sees.")
app.add_typer(data, name="data")


@data.command("list", epilog="Example: `memgpt data list`")
def list_(as_json: Json = False) -> None:
    """List the data sets that are preprocessed here."""
    from memgpt_cli.data.dataset import DATA_SET, read_manifest

    found = sorted(p for p in DATA_ROOT.glob("[!.]*") if DATA_SET.marks(p)) if DATA_ROOT.is_dir() else []
    for folder in found:
        manifest = read_manifest(folder)
        splits = {split: s["examples"] for split, s in manifest["statistics"].items()}
        if as_json:
            print_json({"name": folder.name, "source": manifest["source"], "examples": splits})
        else:
            said = ", ".join(f"{split} {n:,}" for split, n in splits.items())
            console().print(f"{folder.name:<24} {manifest['source']:<14} examples: {said}", markup=False)
    if not found and not as_json:
        console().print(f"no data set in {DATA_ROOT}/: type memgpt preprocess first")


@data.command(epilog="Example: `memgpt data show dialog_babi 12`; `memgpt data show facts 3 --split test`")
def show(
    name: Annotated[str, typer.Argument(help="Its name, as `memgpt data list` has it.")],
    number: Annotated[int, typer.Argument(help="Which example of the split, from 0.", min=0)] = 0,
    split: Annotated[str, typer.Option("--split", help="train, valid or test.")] = "train",
    ids: Annotated[bool, typer.Option("--ids", help="The tokens as the model has them, each between bars.")] = False,
    as_json: Json = False,
) -> None:
    """Show an example as the model sees it: input, entries with kind and time, target, evidence, and what was cut."""
    from memgpt_cli.data.dataset import EpisodeDataset, read_manifest
    from memgpt_cli.errors import UsageError
    from memgpt_cli.files import plain_name
    from memgpt_cli.tokenizer import load_tokenizer

    folder = DATA_ROOT / plain_name(name, "the data set's name")
    manifest = read_manifest(folder)
    if split not in manifest["statistics"]:
        raise UsageError(f"--split {split}: {folder} has {', '.join(manifest['statistics'])}")
    dataset = EpisodeDataset(folder / split)
    before = 0
    for n in range(len(dataset)):
        row = dataset.row(n)
        if number < before + len(row.inputs):
            break
        before += len(row.inputs)
    else:
        raise UsageError(f"example {number}: the {split} split has {before:,}, from 0 to {before - 1:,}")
    example = _Example(row, number - before, load_tokenizer(folder) if ids else None)
    if as_json:
        print_json(example.as_dict())
    else:
        example.show(manifest["statistics"][split]["changes"])


class _Example:
    """One example of an episode, with the entries it sees."""

    def __init__(self, row: "EncodedEpisode", n: int, tokenizer: Any) -> None:
        self.row, self.n, self.tokenizer = row, n, tokenizer
        self.sees, self.evidence = row.sees[n], set(row.evidence[n])

    def as_dict(self) -> dict[str, Any]:
        row, n = self.row, self.n
        entries = [
            {"time": t, "kind": row.kinds[t], "text": row.entries[t], "ids": row.entry_ids[t], "evidence": t in self.evidence}
            for t in range(self.sees)
        ]
        asked = {"episode": row.id, "example": n, "task": row.tasks[n], "input": row.inputs[n], "input_ids": row.input_ids[n]}
        wanted = {"target": row.targets[n], "target_ids": row.target_ids[n], "references": list(row.references[n])}
        return {**asked, "entries": entries, **wanted}

    def _shown(self, text: str, ids: Any) -> str:
        from rich.markup import escape

        return escape("│".join(self.tokenizer.piece(i) for i in ids) if self.tokenizer else text)

    def show(self, changes: dict[str, int]) -> None:
        from rich.table import Table

        out, row, n = console(), self.row, self.n
        out.print(f"[bold]{row.id}[/], example {n} ({row.tasks[n]})")
        table = Table("time", "kind", "entry", "tokens", box=None, pad_edge=False, header_style="dim")
        for t in range(self.sees):
            style = "green" if t in self.evidence else ""
            table.add_row(
                str(t), row.kinds[t], self._shown(row.entries[t], row.entry_ids[t]), str(len(row.entry_ids[t])), style=style
            )
        if self.sees:
            out.print(table)
        out.print(f"[dim]sees {self.sees} of {len(row.entries)} entries; evidence in green[/]")
        out.print(f"[bold cyan]input[/]  {self._shown(row.inputs[n], row.input_ids[n])}")
        out.print(f"[bold yellow]target[/] {self._shown(row.targets[n], row.target_ids[n])}")
        for reference in row.references[n]:
            if reference != row.targets[n]:
                out.print(f"[dim]or     {self._shown(reference, ())}[/]" if not self.tokenizer else "[dim]or     …[/]")
        cut = ", ".join(f"{what}: {count:,}" for what, count in changes.items())
        out.print(f"[dim]in the whole split: {cut or 'nothing was cut, split or dropped'}[/]")
