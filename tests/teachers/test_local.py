"""Teachers in this process: frozen, in their own dtype, with the scores of the model in the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlalign.errors import UserError
from rlalign.policies import causal
from rlalign.policies.factory import load, make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.teachers.local import check_local_teacher, local_teacher
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Sampling

TOKENIZER = CharTokenizer("abc>")
CPU = torch.device("cpu")
TOKENS = torch.tensor([[2, 3, 4, 1, 0], [3, 5, 2, 2, 4]])
LENGTHS = torch.tensor([4, 5])
MASK = torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 0, 1]]).bool()


def scores(name: Path | str) -> torch.Tensor:
    """Return the log-probs of a few tokens under a teacher."""
    teacher = local_teacher(str(name), TOKENIZER, CPU, trust_remote_code=False)
    assert not [name for name, parameter in teacher.policy.named_parameters() if parameter.requires_grad]
    assert teacher.policy.trainable() == {}
    logprobs = teacher.reference_logprobs(TOKENS, LENGTHS, MASK, Sampling())
    assert not logprobs.requires_grad
    assert (logprobs[~MASK] == 0).all()
    return logprobs


@pytest.mark.parametrize("kind", ["gru", "tiny"])
def test_the_scores_are_those_of_the_saved_policy(tmp_path: Path, kind: str) -> None:
    options = PolicyOptions(hidden_size=32, layers=1)
    make_policy(kind, tokenizer=TOKENIZER, options=options, seed=3).save_pretrained(tmp_path / "big")
    with torch.no_grad():
        expected = load(tmp_path / "big").score(TOKENS, LENGTHS, MASK, Sampling()).logprobs
    assert torch.allclose(scores(tmp_path / "big"), expected, atol=1e-6)


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_policy("tiny", tokenizer=TOKENIZER, options=PolicyOptions(hidden_size=32, layers=1)).save_pretrained(base)
    policy = make_policy(str(base), options=PolicyOptions(adapter=AdapterOptions.lora(4)))
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.1)
        expected = policy.score(TOKENS, LENGTHS, MASK, Sampling()).logprobs
    policy.save_pretrained(tmp_path / "big")
    assert torch.allclose(scores(tmp_path / "big" / "adapter"), expected, atol=1e-5)


def test_the_weights_have_their_own_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlalign.policies import pretrained
    from rlalign.policies.device import compute_dtype

    policy = make_policy("tiny", tokenizer=TOKENIZER, options=PolicyOptions(hidden_size=32, layers=1))
    assert isinstance(policy, causal.CausalPolicy)
    policy.save_pretrained(tmp_path / "float32")
    policy.lm.to(torch.bfloat16).save_pretrained(tmp_path / "bfloat16")
    for name in ("policy.json", "tokenizer.json", "tokenizer_config.json"):
        source = tmp_path / "float32" / name
        if source.is_file():
            (tmp_path / "bfloat16" / name).write_bytes(source.read_bytes())

    def native(choice: str, device: torch.device) -> torch.dtype:
        return torch.bfloat16 if choice == "auto" else compute_dtype(choice, device)

    for module in (causal, pretrained):  # a machine that multiplies bfloat16 natively
        monkeypatch.setattr(module, "compute_dtype", native)
    for stored, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        teacher = local_teacher(str(tmp_path / stored), TOKENIZER, CPU, trust_remote_code=False)
        assert {parameter.dtype for parameter in teacher.policy.parameters()} == {dtype}
        assert teacher.policy.compute_dtype == dtype
        assert teacher.reference_logprobs(TOKENS, LENGTHS, MASK, Sampling()).dtype == torch.float32


def test_names_that_are_no_trained_model_are_refused(tmp_path: Path) -> None:
    for name, message in (("tiny", "whose weights are random"), (str(tmp_path / "none"), "no folder")):
        with pytest.raises(UserError, match=message):
            check_local_teacher(name, trust_remote_code=False)
