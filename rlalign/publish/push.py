"""The upload of a run's policy with its card to the Hugging Face Hub, through huggingface_hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlalign.config.validate import check_repository
from rlalign.errors import FaultError, UserError
from rlalign.publish.base_model import CARD
from rlalign.publish.shareable_files import check_places, shareable_files
from rlalign.publish.written_card import write_card
from rlalign.storage.folder_kind import check_run

SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md")
"""Suffixes of the files that are uploaded. Formats that run code when they are read, such as pickles, are not."""


@dataclass(frozen=True)
class Upload:
    """A finished upload.

    Attributes:
        url: of the repository.
        files: names of the uploaded files.
        left_out: names of files of the policy that are not on the list.
    """

    url: str
    files: tuple[str, ...]
    left_out: tuple[str, ...]


def push(folder: Path, repo: str, *, private: bool = True) -> Upload:
    """Upload `policy/` of a run to a repository of the Hub, which is created if it does not exist.

    The token is that of `hf auth login` or `HF_TOKEN`. An existing repository keeps its visibility.

    Args:
        folder: of a finished run.
        repo: OWNER/NAME.
        private: a repository that is created is private.

    Raises:
        UserError: `repo` does not have the form OWNER/NAME, the folder does not hold a finished run, or a file contains
            a folder of this machine or a key.
        FaultError: the upload failed; the message has the next step, and the run is untouched.
    """
    check_repository("push", repo)
    check_run(folder)
    policy = folder / "policy"
    if not policy.is_dir():
        raise UserError(f"'{folder}' has no policy yet; finish it with rlalign train --resume {folder}")
    if not (policy / CARD).is_file():  # of a run of an earlier version
        write_card(folder)
    files, left_out = uploaded_files(policy)
    texts = shareable_files(policy, files)
    check_places(folder, texts)
    from huggingface_hub import CommitOperationAdd, HfApi

    try:
        api = HfApi()
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.create_commit(
            repo_id=url.repo_id,
            operations=[CommitOperationAdd(name, texts.get(name, policy / name)) for name in files],
            commit_message="Upload the policy of a run of rlalign",
        )
    except Exception as error:  # of the network, of the server, of the token: dozens of classes
        first = (str(error).strip().splitlines() or ["no message"])[0]
        raise FaultError(
            f"the policy could not be uploaded to '{repo}' ({type(error).__name__}: {first}); the run in '{folder}' is "
            f"complete: check hf auth whoami and the network, then use rlalign push {folder} {repo}"
        ) from error
    return Upload(str(url), tuple(files), tuple(left_out))


def uploaded_files(policy: Path) -> tuple[list[str], list[str]]:
    """Return the names of the files that are uploaded, and of those that are left out, as paths below the folder.

    Args:
        policy: the policy folder. Links and hidden files are left out.
    """
    files: list[str] = []
    left_out: list[str] = []
    for path in sorted(policy.rglob("*")):
        name = path.relative_to(policy)
        if path.is_dir() and not path.is_symlink():
            continue
        hidden = any(part.startswith(".") for part in name.parts)
        linked = any((policy / parent).is_symlink() for parent in [name, *name.parents])
        on_list = path.suffix in SUFFIXES and not hidden and not linked
        (files if on_list else left_out).append(name.as_posix())
    return files, left_out


def described(upload: Upload) -> str:
    """Return an upload in one line."""
    rest = f"; left out: {_few(upload.left_out)}" if upload.left_out else ""
    return f"uploaded {len(upload.files)} files to {upload.url}{rest}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
