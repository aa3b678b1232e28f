"""Attention over packed rows turns queries and keys as transformers does, and leaves everything else to it."""

import copy
import pickle

import pytest
import torch
from transformers.models.qwen3 import modeling_qwen3
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3Config

from rlalign.policies.scoring.attention import PackedAttention, _Rotated
from rlalign.policies.scoring.linear import speed_up


def angles(m, e):
    turn = torch.randn(m, e // 2).repeat(1, 2)
    return turn.cos()[:, None], turn.sin()[:, None]


def test_rotation_is_that_of_transformers():
    torch.manual_seed(0)
    cos, sin = angles(7, 6)
    x, weight = torch.randn(7, 3, 6, requires_grad=True), torch.randn(7, 3, 6)
    want, _ = modeling_qwen3.apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=0)
    (gradient,) = torch.autograd.grad((want * weight).sum(), x)
    got = _Rotated.apply(x, cos, sin)
    torch.testing.assert_close(got, want[0])
    torch.testing.assert_close(torch.autograd.grad((got * weight).sum(), x)[0], gradient)


def test_gradient_against_finite_differences():
    torch.manual_seed(1)
    cos, sin = (t.double() for t in angles(4, 4))
    x = torch.randn(4, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: _Rotated.apply(x, cos, sin), x)


def test_half_precision_comes_back_as_it_was():
    x = torch.randn(5, 2, 4).to(torch.bfloat16).requires_grad_()
    y = _Rotated.apply(x, *angles(5, 4))
    assert y.dtype == torch.float32  # as in transformers, whose positions are float32
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_a_second_derivative_is_refused():
    x = torch.randn(5, 2, 4, requires_grad=True)
    (g,) = torch.autograd.grad(_Rotated.apply(x, *angles(5, 4)).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        g.sum().backward()


def test_a_module_is_changed_once_and_can_be_copied():
    config = Qwen3Config(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    config._attn_implementation = "eager"
    holder = torch.nn.Sequential(Qwen3Attention(config, 0))
    names = [n for n, _ in holder.named_parameters()]
    speed_up(holder)
    kind = type(holder[0])
    assert issubclass(kind, PackedAttention)
    assert issubclass(kind, Qwen3Attention)
    for again in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        speed_up(again)
        assert type(again[0]) is kind
        assert [n for n, _ in again.named_parameters()] == names
        assert again[0].q_proj.weight is not holder[0].q_proj.weight


def test_a_module_that_only_shares_the_name_is_left_alone():
    own = type("LlamaAttention", (torch.nn.Module,), {})
    speed_up(holder := torch.nn.Sequential(own()))
    assert type(holder[0]) is own


@pytest.mark.parametrize("more", [{"softcap": 3.0}, {"past_key_values": object()}])
def test_what_a_layer_asks_beyond_it_goes_transformers_way(more, monkeypatch):
    config = Qwen3Config(hidden_size=16, num_attention_heads=2, num_key_value_heads=1, head_dim=8)
    speed_up(holder := torch.nn.Sequential(Qwen3Attention(config, 0)))
    monkeypatch.setattr(Qwen3Attention, "forward", lambda self, *args, **kwargs: kwargs)
    assert holder(torch.zeros(1, 2, 16)) == {}
    places = angles(2, 8)
    got = holder[0](torch.zeros(1, 2, 16), places, None, packing=object(), **more)
    assert more.items() <= got.items()
    assert "packing" in holder[0](torch.zeros(2, 2, 16), places, None, packing=object())  # several rows
