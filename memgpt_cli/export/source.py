"""What is exported, and how an export is compared with it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memgpt_cli.config import Config
from memgpt_cli.data.dataset import EpisodeDataset
from memgpt_cli.errors import CheckpointError
from memgpt_cli.model import MemoryTransformer
from memgpt_cli.tokenizer import EOS, Tokenizer

SENTENCES = (
    ("Anna keeps three grey cats in the house by the river.", "Anna has three cats."),
    ("summarize: The meeting was moved from Monday to Friday, since half of the team is ill.", "The meeting is on Friday."),
    ("Where does Peter live?", "in Lisbon"),
    ("安娜住在河边的房子里，养了三只猫。", "安娜有三只猫。"),
    ("Preise: 12,50 € – naïve café ☕", "12,50 €"),
    ("user: hello\nbot: what can i do for you?\n\nuser:  two  spaces, and a tab:\t!", "ok"),
    ("The river, the house and the cats. " * 40, "the cats"),
    ("a", "b"),
)


@dataclass
class Source:
    """What is exported: a run's best model, with everything a card says of it."""

    run: Path
    model: MemoryTransformer
    tokenizer: Tokenizer
    config: Config  # without the places of the machine it was trained on: `load_model` leaves them out
    notes: dict[str, Any]
    license: str = ""

    def samples(self, most: int = 8) -> tuple[list[str], list[str]]:
        """Inputs and targets to compare outputs on: the run's own validation data where it is still there."""
        pairs: list[tuple[str, str]] = []
        for split in ("valid", "test"):
            if not pairs and (folder := Path("data", self.config.data.name, split)).is_dir():
                data = EpisodeDataset(folder)
                found = [(x.input, x.target) for n in range(min(most, len(data))) for x in data[n].examples]
                pairs = found[:: max(1, len(found) // most)][:most]
        texts, targets = zip(*(pairs + list(SENTENCES)), strict=True)
        return list(texts), list(targets)

    def ids(self, texts: list[str], limit: int = 128) -> Tensor:
        """[n, L]: ids of texts, each ending in EOS, cut to `limit`, padded with 0."""
        rows = [torch.tensor([*ids[: limit - 1], EOS]) for ids in self.tokenizer.encode_all(texts)]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    @torch.inference_mode()
    def logits(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """[n, T, V] without memory, row by row, so that padding plays no part."""
        out = torch.zeros(*targets.shape, self.model.config.vocab_size)
        for n, (text, target) in enumerate(zip(inputs, targets, strict=True)):
            said = self.model(text[text != 0][None], target[target != 0][None])
            out[n, : said.shape[1]] = said[0]
        return out


@dataclass
class Exported:
    folder: Path
    checks: list[str] = field(default_factory=list)  # what was compared, and how it came out
    notes: list[str] = field(default_factory=list)  # what the format cannot hold


def compare(what: str, ours: Tensor, theirs: Tensor, real: Tensor, tolerance: float = 1e-4) -> str:
    """The largest difference, relative to the largest value; raises CheckpointError beyond the tolerance."""
    ours, theirs = ours[real].float(), theirs[real].float()
    off = float((ours - theirs).abs().max() / ours.abs().max())
    if not off <= tolerance:
        raise CheckpointError(
            f"the export is not the same model: {what} differ by {off:.1e} of their largest, at most {tolerance:.0e} is right"
        )
    return f"{what}: differ by at most {off:.1e} of their largest"
