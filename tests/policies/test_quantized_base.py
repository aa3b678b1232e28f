"""Frozen weights in 4 and 8 bits: codes of bitsandbytes, products and gradients, and the plain layer they equal."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from rlalign.errors import UserError
from rlalign.policies import quantized_base
from rlalign.policies.factory import make_policy
from rlalign.policies.lora import describe_adapter
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.quantized_base import QuantizedLinear, quantize_base
from tests.policies.test_causal import Ids

bitsandbytes = pytest.importorskip("bitsandbytes")


def layer(conv1d: bool = False) -> nn.Module:
    torch.manual_seed(0)
    made = Conv1D(48, 64) if conv1d else nn.Linear(64, 48)
    nn.init.normal_(made.bias)
    return made.bfloat16().float()


def test_nf4_has_the_weights_of_bitsandbytes_own_layer():
    linear = layer()
    own = bitsandbytes.nn.Linear4bit(64, 48, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=False)
    own.weight = bitsandbytes.nn.Params4bit(
        linear.weight.data.bfloat16(), requires_grad=False, quant_type="nf4", compress_statistics=False
    )
    own = own.to("cpu")
    expected = bitsandbytes.functional.dequantize_4bit(own.weight.data, own.weight.quant_state)
    assert torch.equal(QuantizedLinear(linear, "nf4").dequantized(torch.bfloat16), expected)


@pytest.mark.parametrize("conv1d", [False, True])
@pytest.mark.parametrize(("kind", "error"), [("nf4", 0.2), ("int8", 0.01)])
def test_products_and_gradients_are_those_of_the_plain_layer(kind, error, conv1d):
    original = layer(conv1d)
    quantized = QuantizedLinear(original, kind)
    plain = quantized.to_plain()
    assert type(plain) is type(original)
    assert 0 < (plain.weight - original.weight).abs().max() < error * original.weight.abs().max()
    x, y = (torch.randn(5, 3, 64, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    weight = torch.randn(5, 3, 48)
    a, b = quantized(x), plain(y)
    assert (a - b).abs().max() < 1e-5
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    assert (x.grad - y.grad).abs().max() < 1e-5


def test_the_weights_take_a_quarter_and_the_head_stays():
    options = PolicyOptions(adapter=AdapterOptions("lora"), base="nf4", dtype="bfloat16", hidden_size=128)
    policy = make_policy("tiny", tokenizer=Ids(), options=options)
    quantized = [m for m in policy.lm.modules() if isinstance(m, QuantizedLinear)]
    assert len(quantized) == 14
    codes = sum(m.weight.numel() + 4 * m.scale.numel() for m in quantized)
    assert codes < 0.3 * sum(2 * m.in_features * m.out_features for m in quantized)
    assert type(policy.lm.get_output_embeddings()) is not QuantizedLinear
    assert not any(isinstance(m, QuantizedLinear) for name, m in policy.lm.named_modules() if "lora_" in name)


def test_the_share_of_adapted_parameters_does_not_depend_on_their_storage():
    shares = set()
    for base in ("none", "nf4", "int8"):
        options = PolicyOptions(adapter=AdapterOptions("lora"), base=base, hidden_size=128)
        policy = make_policy("tiny", tokenizer=Ids(), options=options)
        shares.add(describe_adapter(policy.model, policy.options.adapter))
    assert len(shares) == 1, shares


def test_layers_that_are_read_without_being_called_are_left(monkeypatch):
    lm = make_policy("tiny", tokenizer=Ids()).lm.requires_grad_(False)
    quantize_base(lm, "int8", ["model.layers.0.mlp.down_proj"])
    assert not isinstance(lm.model.layers[0].mlp.down_proj, QuantizedLinear)


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(quantized_base, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"'bitsandbytes', which is not installed; use pip install -c constraints.txt -e '.\[quant\]'"
    ):
        make_policy("tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions("lora"), base="nf4"))


def test_full_fine_tuning_over_quantized_weights_is_refused():
    with pytest.raises(UserError, match="expected an adapter over the quantized weights, got full fine-tuning"):
        make_policy("tiny", tokenizer=Ids(), options=PolicyOptions(base="nf4"))
