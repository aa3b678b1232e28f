"""Packaging: the installed packages equal those in the tree, and importing them loads no heavy library."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FOLDERS = {"rlalign.envs": "envs", "rlalign.policies": "policies", "rlalign.rewards": "rewards"}


def packages_in_tree():
    folders = [p.parent.relative_to(ROOT) for p in (ROOT / "rlalign").rglob("__init__.py")]
    packages = {".".join(folder.parts) for folder in folders}
    for name, folder in FOLDERS.items():
        packages |= {
            ".".join([name, *p.relative_to(ROOT / folder).parts[:-1]]) for p in (ROOT / folder).rglob("__init__.py")
        }
    return packages


def test_each_package_is_declared():
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages_in_tree()


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_links_are_relative_and_point_to_the_folders(folder):
    link = ROOT / "rlalign" / folder
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{folder}"


def test_import_is_light():
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "scipy", "matplotlib", "pandas"}
    code = f"import sys, rlalign; from rlalign import rewards, envs, policies; print({heavy!r} & set(sys.modules))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert process.stdout.strip() == "set()"


def test_each_public_name_can_be_imported():
    import rlalign

    for name in rlalign.__all__:
        assert getattr(rlalign, name) is not None


def test_version_equals_that_of_the_project():
    import rlalign

    assert rlalign.__version__ == PROJECT["project"]["version"]


def test_readme_begins_with_the_two_commands():
    blocks = (ROOT / "README.md").read_text().split("```bash\n")[1:3]
    commands = [block.partition("\n```")[0] for block in blocks]
    assert all("\n" not in command and "-c constraints.txt" in command for command in commands)
    assert commands[0].endswith("rlalign train")
    assert "pytest" in commands[1]


def test_constraints_pin_all_requirements():
    import re

    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    # an extra may consist of others, which it names by the project itself
    extras = [r for requirements in PROJECT["project"]["optional-dependencies"].values() for r in requirements]
    required = {re.split(r"[<>=\[ ]", r)[0].lower() for r in [*PROJECT["project"]["dependencies"], *extras]} - {
        "rlalign"
    }
    assert {w.replace("_", "-") for w in required} <= pinned
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()
