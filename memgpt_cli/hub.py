"""Folders of pretrained models: a local one, one in the hub's cache, or one that is downloaded because it was asked for.

What is in the cache is used without asking the network. Downloads show a progress bar, and go on where a broken
connection left them. Credentials are huggingface_hub's own ($HF_TOKEN or `hf auth login`); they are never printed.
"""

import json
import os
import re
import sys
from pathlib import Path

from memgpt_cli.errors import CheckpointError

DESCRIPTIONS = ["*.json", "spiece.model", "tokenizer.model"]
WEIGHTS, OLD_WEIGHTS = ["model*.safetensors"], ["pytorch_model*.bin"]
_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def is_hub_id(name: str) -> bool:
    """Whether a name can only be a repository on the hub: `owner/name`, and no such folder."""
    return bool(_ID.fullmatch(name)) and not Path(name).expanduser().exists()


def without_place(name: str) -> str:
    """A hub id as it is; of a folder its name alone, so that nothing made public tells where it lay."""
    return name if is_hub_id(name) else Path(name).name


def fetch(name: str, revision: str = "", weights: bool = True) -> Path:
    """The folder that holds a pretrained model.

    Args:
        name: a folder in Hugging Face format, or a repository on the hub, such as `google/flan-t5-base`.
        revision: branch, tag or commit on the hub; `main` where empty.
        weights: False fetches configuration and tokenizer only.

    Raises CheckpointError in words: no such folder or repository, a gated one, no network, offline mode, a full disk.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if not is_hub_id(name):
        raise CheckpointError(
            f"there is no folder '{name}': expected a folder in Hugging Face format or a hub id such as google/flan-t5-base"
        )
    found = _cached(name, revision, DESCRIPTIONS)
    if found and (not weights or _whole(found)):
        return found
    found = _download(name, revision, DESCRIPTIONS + (WEIGHTS if weights else []))
    return found if not weights or _whole(found) else _download(name, revision, DESCRIPTIONS + OLD_WEIGHTS)


def _whole(folder: Path) -> bool:
    """Whether weights are there, in one file or in all the shards that an index names."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{name}.index.json"
        if index.is_file():
            return all((folder / shard).is_file() for shard in set(json.loads(index.read_text())["weight_map"].values()))
        if (folder / name).is_file():
            return True
    return False


def _cached(name: str, revision: str, patterns: list[str]) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _download(name: str, revision: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    bars_were_off = are_progress_bars_disabled()
    if not sys.stderr.isatty():
        disable_progress_bars()
        print(f"downloading {name} from the hub", file=sys.stderr)
    page = f"https://huggingface.co/{name}"
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its conditions at {page}, then set HF_TOKEN (or type hf auth login) and try again"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{name} has no revision '{revision}': see {page}/commits/main") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder '{name}', and no repository of this name on the hub that you may read: check the name at {page}; for a private one set HF_TOKEN"
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE"):
            raise CheckpointError(
                f"{name} is not in the local cache, and HF_HUB_OFFLINE forbids to download it: unset it, or name a local folder"
            ) from error
        raise CheckpointError(
            f"{name} is not in the local cache, and the hub cannot be reached ({_first_line(error)}): try again online, or name a local folder"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f"{name} could not be downloaded: {_first_line(error)}. What has arrived is kept; the same command goes on"
        ) from error
    finally:
        if not bars_were_off:
            enable_progress_bars()


def push(folder: Path, repository: str, private: bool = False) -> str:
    """Uploads a folder as a model repository, made if it is not there; returns its address.

    Raises CheckpointError in words: no credentials, no right to write there, no network.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        api = HfApi()
        made = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="Exported by memgpt")
        return str(made)
    except OfflineModeIsEnabled as error:
        raise CheckpointError("HF_HUB_OFFLINE forbids to upload: unset it") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise CheckpointError(
                f"the hub does not let you write to {repository} ({status}): set HF_TOKEN to a token with write access, or type hf auth login"
            ) from error
        raise CheckpointError(f"{repository} could not be uploaded: {_first_line(error)}; {folder} is whole") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{repository} could not be uploaded: {_first_line(error)}; {folder} is whole") from error


def _first_line(error: BaseException) -> str:
    return str(error.__cause__ or error).strip().split("\n")[0]
