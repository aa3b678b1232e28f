"""`rlalign check --as policy`: each path is listed, and a refused model fails with its reason."""

from rlalign.checks import check_policy
from rlalign.cli.check import run
from rlalign.policies.path_check import prove


def test_each_path_is_listed_with_its_difference(capsys):
    assert run(["tiny", "--as", "policy"]) == 0
    printed = capsys.readouterr().out
    for path in ("scored packed", "decoded by the optimized decoder"):
        assert f"full fine-tuning: {path}: " in printed
        assert f"LoRA: {path}: " in printed
    assert "nats from plain rows" in printed


def test_a_refused_policy_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path))
    monkeypatch.setattr(prove, "_EXACT", 0.0)
    monkeypatch.setattr(prove, "_TOLERABLE", 0.0)
    results = check_policy("tiny")
    assert [result.passed for result in results] == [False, False]
    assert "'LlamaForCausalLM'" in results[0].detail


def test_a_policy_with_one_way_passes():
    assert all(result.passed for result in check_policy("gru"))
