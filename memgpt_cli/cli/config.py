"""memgpt config."""

import json
from pathlib import Path
from typing import Annotated

import typer

from memgpt_cli.cli.app import ConfigDir, Json, app, complete_override, console, own_data, print_json

COMMANDS = ("preprocess", "train", "eval", "generate", "ask", "chat")  # whose configuration it is: they share one


@app.command(epilog="Example: `memgpt config experiment=facts`; `memgpt config explain optim.lr`")
def config(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[explain KEY...] [KEY=VALUE...]",
            help="Settings and presets to compose; or explain, and the settings to explain.",
            autocompletion=complete_override,
        ),
    ] = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Show the complete configuration and the presets there are; or explain a setting: meaning, default, who sets it."""
    from memgpt_cli.config import GROUPS, choices, compose, conf_dir, to_dict
    from memgpt_cli.errors import UsageError, did_you_mean

    given = words or []
    if given[:1] == ["explain"]:
        _explain(given[1:], config_dir, as_json)
        return
    if given and "=" not in given[0] and given[0] not in COMMANDS:
        raise UsageError(f"'{given[0]}' has no configuration.{did_you_mean(given[0], (*COMMANDS, 'explain'))}")
    values = to_dict(compose(own_data(given[given[:1] != [] and "=" not in given[0] :]), config_dir))
    if as_json:
        print_json(values)
        return
    import yaml

    print(yaml.safe_dump(json.loads(json.dumps(values)), sort_keys=False, allow_unicode=True), end="")
    print(f"\n# presets in {conf_dir()}:")
    for group in GROUPS:
        print(f"#   {group}: {', '.join(choices(group, config_dir)) or '-'}")
    print("# memgpt config explain KEY tells what a setting means")


def _explain(keys: list[str], config_dir: Path | None, as_json: bool) -> None:
    from memgpt_cli.config.explain import unknown_key
    from memgpt_cli.config.meaning import set_by, settings
    from memgpt_cli.errors import ConfigError, UsageError

    if not keys:
        raise UsageError("explain what? memgpt config explain optim.lr; a group such as optim explains all of its settings")
    known = {setting.name: setting for setting in settings()}
    out = console()
    for key in keys:
        found = [s for name, s in known.items() if name == key or name.startswith(f"{key}.")]
        if not found:
            raise ConfigError(unknown_key(key))
        for setting in found:
            presets = set_by(setting.name, config_dir)
            if as_json:
                print_json({**setting._asdict(), "set_by": presets})
                continue
            out.print(f"[bold]{setting.name}[/] = {setting.default!r}  [dim]{setting.kind}[/]", markup=True)
            if setting.meaning:
                out.print(f"  {setting.meaning}", markup=False)
            for preset, value in presets.items():
                out.print(f"  {preset} sets it to {value!r}", style="dim", markup=False)
