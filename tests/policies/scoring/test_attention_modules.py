"""Attention modules: rotary embeddings equal those of transformers, and unsupported calls go to its own module."""

import copy
import pickle

import pytest
import torch
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3Config

from rlalign.policies.scoring.attention_modules import PackedAttention, _Rotary
from rlalign.policies.scoring.linear import speed_up


def cos_and_sin(m, e):
    angle = torch.randn(m, e // 2).repeat(1, 2)
    return angle.cos()[:, None], angle.sin()[:, None]


def test_rotation_equals_that_of_transformers():
    torch.manual_seed(0)
    cos, sin = cos_and_sin(7, 6)
    x, weight = torch.randn(7, 3, 6, requires_grad=True), torch.randn(7, 3, 6)
    expected, _ = modeling_qwen3.apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=0)
    (gradient,) = torch.autograd.grad((expected * weight).sum(), x)
    rotated = _Rotary.apply(x, cos, sin)
    torch.testing.assert_close(rotated, expected[0])
    torch.testing.assert_close(torch.autograd.grad((rotated * weight).sum(), x)[0], gradient)


def test_gradient_against_finite_differences():
    torch.manual_seed(1)
    cos, sin = (t.double() for t in cos_and_sin(4, 4))
    x = torch.randn(4, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Rotary.apply(x, cos, sin), x)


def test_a_gradient_has_the_dtype_of_its_input():
    x = torch.randn(5, 2, 4).to(torch.bfloat16).requires_grad_()
    y = _Rotary.apply(x, *cos_and_sin(5, 4))
    assert y.dtype == torch.float32  # as in transformers, whose positions are float32
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_a_second_derivative_raises_an_error():
    x = torch.randn(5, 2, 4, requires_grad=True)
    (g,) = torch.autograd.grad(_Rotary.apply(x, *cos_and_sin(5, 4)).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        g.sum().backward()


def test_a_module_is_replaced_once_and_can_be_copied():
    config = Qwen3Config(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    config._attn_implementation = "eager"
    holder = torch.nn.Sequential(Qwen3Attention(config, 0))
    names = [n for n, _ in holder.named_parameters()]
    speed_up(holder)
    kind = type(holder[0])
    assert issubclass(kind, PackedAttention)
    assert issubclass(kind, Qwen3Attention)
    for duplicate in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        speed_up(duplicate)
        assert type(duplicate[0]) is kind
        assert [n for n, _ in duplicate.named_parameters()] == names
        assert duplicate[0].q_proj.weight is not holder[0].q_proj.weight


def test_a_module_that_only_shares_the_name_is_not_replaced():
    namesake = type("LlamaAttention", (torch.nn.Module,), {})
    holder = torch.nn.Sequential(namesake())
    speed_up(holder)
    assert type(holder[0]) is namesake


@pytest.mark.parametrize("unsupported", [{"softcap": 3.0}, {"past_key_values": object()}])
def test_unsupported_arguments_go_to_transformers_module(unsupported, monkeypatch):
    config = Qwen3Config(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    holder = torch.nn.Sequential(Qwen3Attention(config, 0))
    speed_up(holder)
    monkeypatch.setattr(Qwen3Attention, "forward", lambda self, *args, **kwargs: kwargs)
    assert holder(torch.zeros(1, 2, 16)) == {}
    positions = cos_and_sin(2, 8)
    received = holder[0](torch.zeros(1, 2, 16), positions, None, packing=object(), **unsupported)
    assert unsupported.items() <= received.items()
    assert "packing" in holder[0](torch.zeros(2, 2, 16), positions, None, packing=object())  # several rows
