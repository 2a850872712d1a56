"""Encoders in folders and on the Hugging Face Hub: `config.json` beside `model.safetensors`."""

import re
from pathlib import Path
from typing import Any

from crossbatch.errors import CrossbatchError, FormatError, expected

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["config.json", "model.safetensors"]


def find_encoder(source: Path | str, *, revision: str | None = None) -> Path:
    """The folder of an encoder: the one given, that of a run, or a download from the Hub.

    Raises:
        FormatError: There is none.
    """
    folder = Path(source).expanduser()
    if (folder / "run.json").exists():
        return folder / "encoder"
    if folder.is_dir():
        return folder
    wanted = f"an encoder at {source}"
    if not _NAME.fullmatch(str(source)):
        remedy = "Give a folder, a run, or a name on the Hugging Face Hub such as owner/model."
        raise FormatError(expected(wanted, "no folder", remedy))
    try:
        return Path(
            _hub().snapshot_download(str(source), revision=revision, allow_patterns=_FILES)
        )
    except Exception as error:  # whatever a download can raise
        got = f"no folder, and from the Hugging Face Hub {type(error).__name__}: {_first(error)}"
        remedy = "Check the name and the connection."
        raise FormatError(expected(wanted, got, remedy)) from error


def upload(folder: Path, repo: str, *, private: bool, token: str | None) -> str:
    """Put a folder's files into a repository as one commit; its address.

    Raises:
        CrossbatchError: The Hub refused, or could not be reached.
    """
    try:
        api = _hub().HfApi(token=token)
        api.create_repo(repo, private=private, exist_ok=True)
        message = "Upload an encoder of crossbatch"
        return str(api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message))
    except Exception as error:  # whatever a connection can raise
        got = f"{type(error).__name__}: {_first(error)}"
        remedy = "Log in with `hf auth login`, or check the name and the connection."
        raise CrossbatchError(expected(f"the Hub to take {repo}", got, remedy)) from error


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        remedy = "Install it: pip install 'crossbatch[hub]'."
        raise CrossbatchError(expected("huggingface_hub", "no such package", remedy)) from error
    return huggingface_hub


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0].rstrip(".")
