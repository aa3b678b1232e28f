"""The current device on an emulated CUDA device (see conftest.py), and the attention that runs there.

Runs under another device than the first are in test_devices.py.
"""

from __future__ import annotations

import threading

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from rlalign.policies.factory import make_policy, make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.types import Sampling

pytestmark = pytest.mark.filterwarnings(
    "ignore:decoding without CUDA graphs",
    "ignore:PyTorch was compiled without cuDNN",
)


class Ids:
    vocab_size = 20
    eos_id = pad_id = 1


# ---- the emulation detects errors ----


def test_an_operation_outside_of_the_guard_is_recorded(cuda):
    x = torch.ones(2, device="cuda:1")
    assert not cuda.unguarded
    x + 1
    (line,) = cuda.unguarded
    assert line.endswith("x + 1")
    with torch.cuda.device("cuda:1"):
        assert (torch.ones(2, device="cuda") + x).device == torch.device("cuda:1")
    assert len(cuda.unguarded) == 1
    with pytest.raises(AssertionError, match="on two devices"):
        x + torch.ones(2, device="cuda")


@pytest.mark.parametrize(
    ("dtype", "mask", "causal", "shared", "fused"),
    [
        (torch.bfloat16, False, True, True, True),
        (torch.bfloat16, True, False, False, True),
        (torch.bfloat16, True, False, True, False),
        (torch.float32, False, True, False, True),
        (torch.float32, False, True, True, False),
    ],
)
def test_attention_without_a_fused_kernel_is_recorded(cuda, dtype, mask, causal, shared, fused):
    torch.backends.cuda.enable_cudnn_sdp(False)
    q = torch.ones(1, 4, 3, 8, dtype=dtype, device="cuda")
    k = q[:, :2] if shared else q
    visible = torch.ones(1, 1, 3, 3, dtype=torch.bool, device="cuda") if mask else None
    scaled_dot_product_attention(q, k, k, visible, is_causal=causal, enable_gqa=shared)
    assert (not cuda.unfused) == fused
    torch.backends.cuda.enable_cudnn_sdp(True)
    scaled_dot_product_attention(q, q, q)
    assert cuda.unfused[-1].startswith("test_current_device.py")


# ---- the library ----


@pytest.mark.parametrize("sampler", ["decode", "generate"])
def test_a_policy_uses_its_device_in_any_thread(cuda, sampler):
    """A new thread begins with device 0, as the one does that scores while worker processes compute rewards."""
    policy = make_policy(
        "tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(4), value="head"), device="cuda:1"
    )
    contexts = [[3, 4, 5]] * 2 + [[6, 7]] * 2
    cuda.unguarded.clear()
    errors = []

    def work():
        try:
            with cuda:  # the emulation is local to a thread, like the current device
                make_sampler(sampler, policy).sample(
                    contexts,
                    max_new=20,
                    stop_ids=frozenset({1}),
                    sampling=Sampling(),
                    generator=torch.Generator(),
                )
                tokens, lengths = torch.tensor([[3, 4, 5]] * 2), torch.tensor([3, 3])
                mask = torch.tensor([[False, False, True]] * 2)
                policy.score(tokens, lengths, mask, Sampling(), values=True, entropy=True)
                policy.reference_logprobs(tokens, lengths, mask, Sampling())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert not cuda.unguarded, sorted(set(cuda.unguarded))
    if sampler == "decode":
        assert cuda.recorded_under == cuda.captured_under == {1}
    assert cuda.pinned_under == {1}


def test_a_cuda_policy_turns_the_attention_of_cudnn_off(cuda):
    make_policy("tiny", tokenizer=Ids(), device="cpu")
    assert torch.backends.cuda.cudnn_sdp_enabled()
    make_policy("tiny", tokenizer=Ids(), device="cuda")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_no_attention_forms_all_scores(cuda, family, dtype):
    """Groups of query heads share a key head, and rows have different lengths: the prefill needs a mask."""
    from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

    from rlalign.policies.causal import CausalPolicy

    sizes = {
        "vocab_size": 20, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16,
        "intermediate_size": 96, "num_key_value_heads": 2,
    }  # fmt: skip
    lm = AutoModelForCausalLM.from_config((LlamaConfig if family == "llama" else Gemma2Config)(**sizes))
    options = PolicyOptions(adapter=AdapterOptions.lora(4), dtype=dtype)
    policy = CausalPolicy(lm, Ids(), options=options, device="cuda")
    cuda.unfused.clear()  # the comparison of layouts reads six tokens with transformers' own attention
    for contexts in ([[3, 4, 5]] * 4, [[3, 4, 5]] * 2 + [[6, 7]] * 2):
        make_sampler("decode", policy).sample(
            contexts, max_new=4, stop_ids=frozenset({1}), sampling=Sampling(), generator=torch.Generator()
        )
        rows = [[*context, 8, 9] for context in contexts]
        tokens = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        columns = torch.arange(5)
        mask = (columns >= lengths[:, None] - 2) & (columns < lengths[:, None])
        policy.score(tokens, lengths, mask, Sampling()).logprobs.sum().backward()
    assert not cuda.unfused, sorted(set(cuda.unfused))
