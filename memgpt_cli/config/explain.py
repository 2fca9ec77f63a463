"""One line for a person from what Hydra or OmegaConf said."""

import difflib
import re
from pathlib import Path

from memgpt_cli.config.places import GROUPS, choices
from memgpt_cli.config.settings import all_keys


def explain(message: str, overrides: list[str], config_dir: Path | None) -> str:
    """The preset or key that was meant, or how to quote what cannot be read."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if "=" not in override and not override.startswith("~"):
            groups = [g for g in GROUPS if override in choices(g, config_dir)]
            hint = f" Did you mean '{groups[0]}={override}'?" if groups else ""
            return f"'{override}' is no setting: expected key=value, as in 'trainer=cpu'.{hint}"
        if key in GROUPS and value and value not in choices(key, config_dir):
            names = choices(key, config_dir)
            near = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
            hint = f" Did you mean '{key}={near[0]}'?" if near else f" Known: {', '.join(names)}."
            return f"'{override}': there is no {key} preset '{value}'.{hint}"
    if (
        "Lexer" in message
        or "mismatched input" in message
        or "extraneous input" in message
        or "no viable alternative" in message
    ):
        bad = next(
            (o for o in overrides if o in message), next((o for o in overrides if re.search(r"[<>|!?*;]", o)), overrides[0])
        )
        key, _, value = bad.partition("=")
        return f"'{bad}' cannot be read: quote the value inside the argument, as in '{key}=\"{value}\"'"
    missing = re.search(r"Could not override '([^']+)'", message)
    if missing:
        return unknown_key(missing.group(1))
    return " ".join(message.split("\n")[0].split())


_OTHER_NAMES = {
    "learning_rate": "optim.lr", "batch_size": "trainer.batch_tokens", "epochs": "trainer.max_steps", "max_epochs": "trainer.max_steps",
    "steps": "trainer.max_steps", "gpus": "trainer.devices", "layers": "model.n_encoder_layers", "vocab_size": "data.tokenizer.vocab_size",
}  # fmt: skip


def unknown_key(key: str) -> str:
    every = all_keys()
    if key.rsplit(".", 1)[-1] in _OTHER_NAMES:
        return f"'{key}' is not a setting. Did you mean '{_OTHER_NAMES[key.rsplit('.', 1)[-1]]}'?"
    near = difflib.get_close_matches(key, every, n=1, cutoff=0.5)
    last = key.rsplit(".", 1)[-1]
    by_name = [k for k in every if k.rsplit(".", 1)[-1] == last]
    best = by_name or near or difflib.get_close_matches(last, [k.rsplit(".", 1)[-1] for k in every], n=1, cutoff=0.6)
    if best and best[0] not in every:
        best = [k for k in every if k.endswith("." + best[0])]
    hint = f" Did you mean '{best[0]}'?" if best else " See memgpt config."
    return f"'{key}' is not a setting.{hint}"
