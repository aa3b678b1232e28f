"""The Python files of the user's own that a spec names, with those that they import from their own folder.

The files are found by reading them, without importing anything: a run folder of somebody else must not run code before
its code has been shown.
"""

from __future__ import annotations

import ast
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_INSTALLED = tuple({Path(path).resolve() for name, path in sysconfig.get_paths().items() if name.endswith("lib")})
_LIBRARY = (_PACKAGE, *(path.resolve() for path in _PACKAGE.iterdir()))  # envs, policies, rewards may be symlinks


def user_files(spec: str) -> dict[str, Path]:
    """Return path from the folder of the named file -> path, of the files that a spec runs; {} for installed packages.

    Args:
        spec: `file.py:attr` or `package.module:attr`, as in `rlalign.registry.load`.
    """
    location, colon, _ = spec.rpartition(":")
    if not colon:
        return {}
    if location.endswith(".py"):
        root = expanded(location).resolve()  # as the import does, which also drops `x/..` of a folder that is missing
        folder = root.parent
        start = [root] if root.is_file() else []
    else:
        parts = location.split(".")
        folder, start = next(
            ((Path(entry), found) for entry in sys.path if (found := _module(Path(entry or "."), parts))), (Path(), [])
        )
    files: dict[str, Path] = {}
    waiting = [path for path in start if not is_installed(path)]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(folder).as_posix()
        if name not in files:
            files[name] = path
            waiting += _imports(path, folder)
    return files


def expanded(path: str) -> Path:
    """Return a path with its `~`; unchanged if the home directory is not known, where `Path.expanduser` raises."""
    return Path(os.path.expanduser(path))


def is_installed(path: Path) -> bool:
    """Return whether a file belongs to an installed package, to Python or to this library."""
    resolved = path.resolve()
    if {"site-packages", "dist-packages"} & set(resolved.parts):  # of this environment or one below it
        return True
    return any(resolved.is_relative_to(folder) for folder in (*_INSTALLED, *_LIBRARY))


def _module(folder: Path, parts: list[str]) -> list[Path]:
    """Return the files that importing a dotted name below a folder runs: the packages on the way, then the module."""
    files: list[Path] = []
    for part in parts:
        package = folder / part / "__init__.py"
        module = folder / f"{part}.py"
        if package.is_file():
            files.append(package)
            folder = package.parent
        elif module.is_file():
            return [*files, module]
        else:
            return files
    return files


def _imports(path: Path, folder: Path) -> list[Path]:
    """Return the files below `folder` that a file imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []  # the import itself reports it
    found = [file for start, parts in _imported_names(tree, path, folder) for file in _module(start, parts)]
    return [file for file in found if not is_installed(file)]


def _imported_names(tree: ast.AST, path: Path, folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield (folder, parts of a dotted name) for each import of a file, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield folder, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            start = folder
            if node.level:  # relative: one dot is the folder of the file
                start = path.parent
                for _ in range(node.level - 1):
                    start = start.parent
            parts = node.module.split(".") if node.module else []
            for alias in node.names:
                yield start, [*parts, alias.name]  # the name may be a module of the package
