"""The files of a policy folder as they are uploaded: bases of adapters are named as others find them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlalign.assets import SMOLLM2_FOLDER, SMOLLM2_ID
from rlalign.errors import UserError
from rlalign.escaping.shareable import places_in, secrets_in, shareable_spec

_BASE = "base_model_name_or_path"
OWN_BASE = "./base"
"""Base of an adapter that lies beside it in the policy folder."""
_TOKENIZERS = ("tokenizer.json", "vocab.json", "merges.txt")
"""Files whose texts are tokens, and may be large."""
_WEIGHTS = (".safetensors", ".model")


def shareable_files(policy: Path, names: Sequence[str]) -> dict[str, bytes]:
    """Return the content of each text file that is uploaded; weights are not read.

    Args:
        policy: the policy folder.
        names: of its files, as paths below it.
    """
    bases = sorted(_bases(policy), key=len, reverse=True)  # one may begin with another
    contents = {}
    for name in names:
        path = policy / name
        if path.suffix in _WEIGHTS or path.name in _TOKENIZERS:
            continue
        content = path.read_bytes()
        for base in bases:  # in adapter_config.json and policy.json
            shared = shared_base(base, policy)
            if path.suffix == ".md":  # that peft writes for an adapter
                content = content.replace(base.encode(), shared.encode())
            for ascii_only in (True, False):
                old, new = (json.dumps(b, ensure_ascii=ascii_only)[1:-1].encode() for b in (base, shared))
                content = content.replace(b'"%b"' % old, b'"%b"' % new)
        contents[name] = content
    return contents


def _bases(policy: Path) -> set[str]:
    """Return the bases of the adapter of a policy folder that others find under other names, as its files name them."""
    bases = set()
    for path in (policy / "adapter_config.json", policy / "adapter" / "adapter_config.json"):
        if path.is_file():
            bases.add(str(json.loads(path.read_text(encoding="utf-8")).get(_BASE) or ""))
    if (policy / "policy.json").is_file():
        measured = json.loads((policy / "policy.json").read_text(encoding="utf-8")).get("measured") or {}
        bases.add(str((measured.get("adapter") or {}).get("base") or ""))
    return {base for base in bases if shared_base(base, policy) != base}


def shared_base(base: str, policy: Path) -> str:
    """Return the base of an adapter as others find it: `./base` for the one beside it, a hub id, or a folder's name.

    A folder begins with `./`, so that no repository of the Hub is loaded in its place.

    Args:
        base: folder or hub id.
        policy: the policy folder.
    """
    name = Path(base).name
    if name == "base" and (policy / "base").is_dir():
        return OWN_BASE
    if name == SMOLLM2_FOLDER:
        return SMOLLM2_ID
    shared = shareable_spec(base)
    local = f"./{shared.removeprefix('./')}"
    if shared == base:
        return base
    return "./local/base" if local == OWN_BASE else local  # another folder than the one beside the adapter


def check_places(run: Path, contents: Mapping[str, bytes]) -> None:
    """Raise UserError if a file contains the run's folder, the home folder or a key.

    Args:
        run: the run folder.
        contents: name -> content of the files.
    """
    folders = [run.resolve(), run.absolute(), Path.home()]
    for name, content in contents.items():
        text = content.decode("utf-8", "replace")
        for found in [*places_in(text, folders), *secrets_in(text)]:
            raise UserError(
                f"'{run / 'policy' / name}': expected a file without folders of this machine and without keys, got one "
                f"with '{found}', which others would read; remove it from the file, then push again"
            )
