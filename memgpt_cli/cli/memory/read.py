"""memgpt memory search, list and show."""

import json
from typing import Annotated

import typer

from memgpt_cli.cli.app import Json, KeyEnv, Namespace, StoreUrl, console, print_json
from memgpt_cli.cli.memory.shared import MAX_ID, ModelRun, Where, all_found, entry_table, memory, open_memory, shown, to_filter


@memory.command(epilog='Example: `memgpt memory search "what is the cat called" -k 3`')
def search(
    query: Annotated[str, typer.Argument(help="Words, or a question.")],
    k: Annotated[int, typer.Option("-k", help="How many entries.", min=1, max=100_000)] = 8,
    where: Where = None,
    run: ModelRun = "",
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Find entries by their words; with --run by their meaning too, the two rankings fused."""
    from memgpt_cli.errors import UsageError
    from memgpt_cli.schema import unfit

    if what := unfit(query):
        raise UsageError(f"the query holds {what}")
    memory_, owner, encoder = open_memory(store, namespace, key_env, run)
    with memory_:
        vectors = encoder.queries([query]) if encoder is not None else None
        (hits,) = memory_.search(owner, vectors, [query], k, to_filter(where))
    if as_json:
        for h in hits:
            print_json({**h.entry.as_dict(), "score": h.score, "similarity": h.similarity, "words": h.words})
    elif hits:
        console().print(entry_table([h.entry for h in hits], [h.score for h in hits]))
    else:
        console().print(f"nothing found for '{query}' in the memory of '{owner}'", markup=False)


@memory.command("list", epilog="Example: `memgpt memory list --where kind=fact --limit 20`")
def list_(
    where: Where = None,
    limit: Annotated[int, typer.Option("--limit", help="At most so many; 0 for all.", min=0, max=MAX_ID)] = 50,
    after: Annotated[int, typer.Option("--after", help="Go on after this id.", min=0, max=MAX_ID)] = 0,
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """List entries in the order they came."""
    memory_, owner, _ = open_memory(store, namespace, key_env)
    shown = 0
    with memory_:
        while True:
            size = min(500, limit - shown) if limit else 500
            page = memory_.list(owner, to_filter(where), after, size) if size else []
            if as_json:
                for entry in page:
                    print_json(entry.as_dict())
            elif page:
                console().print(entry_table(page))
            if not page:
                break
            shown, after = shown + len(page), page[-1].id
        more = bool(memory_.list(owner, to_filter(where), after, 1))
    if not as_json and not shown:
        console().print(f"the memory of '{owner}' holds nothing" + (" like that" if where else ""), markup=False)
    elif not as_json and more:
        console().print(f"[dim]more: --after {after}[/]")


@memory.command(epilog="Example: `memgpt memory show 12`")
def show(
    ids: Annotated[list[int], typer.Argument(help="Ids of entries.", min=1, max=MAX_ID)],
    store: StoreUrl = "",
    namespace: Namespace = "",
    key_env: KeyEnv = "",
    as_json: Json = False,
) -> None:
    """Show entries whole: text, kind, every origin, version, and which models have vectors of it."""

    memory_, owner, _ = open_memory(store, namespace, key_env)
    with memory_:
        entries = all_found(memory_.get(owner, ids), ids, owner)
        vectors = memory_.vectors(owner, ids)
    for entry in entries:
        encoders = [mark for mark, own in vectors.items() if entry.id in own]
        if as_json:
            print_json({**entry.as_dict(), "encoders": encoders})
            continue
        out = console()
        when = shown(f"{entry.kind}, version {entry.version}, since {entry.created}, changed {entry.updated}")
        out.print(f"[bold]{entry.id}[/]  {when}")
        out.print(shown(entry.text))
        for origin in entry.provenance:
            out.print("[dim]from  [/]" + shown(", ".join(f"{k} {v}" for k, v in origin.items())))
        if entry.meta:
            out.print("[dim]meta  [/]" + shown(json.dumps(entry.meta, ensure_ascii=False)))
        searched = f"vectors of {', '.join(encoders)}" if encoders else "by its words"
        out.print("[dim]found [/]" + shown(searched if entry.searchable else "never: it only repeats what was recalled"))
