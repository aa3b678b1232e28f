"""Frozen weights in 4 or 8 bits under an adapter, by the functions of bitsandbytes.

nf4    blocks of 64 weights, each weight one of 16 quantiles of a normal distribution times the largest absolute value
       of its block (Dettmers et al. 2023, "QLoRA", arXiv:2305.14314), as transformers' `load_in_4bit` without nested
       quantization
int8   each weight a whole number up to 127 times the scale of its output (vector-wise, Dettmers et al. 2022,
       "LLM.int8()", arXiv:2208.07339)

Only the weights are quantized. A product dequantizes its weight to the dtype of the input, and so does its gradient, so
that sampling, scoring and merging read the same numbers. LLM.int8() rounds the inputs too; the result of a row would
then jump with rounding errors, and differ between two ways of reading it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from rlalign.errors import MissingExtraError

_BLOCK = 64
"""Weights per scale of nf4."""


class QuantizedLinear(nn.Module):
    """A frozen linear layer with a quantized weight, in place of nn.Linear or transformers' Conv1D.

    Args:
        layer: the layer to quantize; its weight has the dtype that products are computed in.
        kind: nf4 or int8.

    Attributes:
        weight: the codes, uint8 [out, in / 2] of nf4 (flat if `in` is odd), or int8 [out, in].
        scale: float32, per block of nf4, or per output of int8.
        bias: of the layer, or None.
        in_features, out_features: sizes of input and output.
    """

    def __init__(self, layer: Any, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._conv1d = not isinstance(layer, nn.Linear)
        matrix = layer.weight.detach().t() if self._conv1d else layer.weight.detach()
        self.out_features, self.in_features = matrix.shape
        self._dtype = matrix.dtype
        # from bfloat16 in every dtype, so that a policy loaded in float32 has the same codes
        codes, scale = _quantized(matrix.to(torch.bfloat16).contiguous(), kind)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = layer.bias

    def dequantized(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight [out, in].

        Args:
            dtype: of the result; None: the dtype that the layer was quantized from.
        """
        return _dequantized(self.weight, self.scale, (self.out_features, self.in_features), dtype or self._dtype)

    def product(self, x: Tensor) -> Tensor:
        """Return x Wᵀ [..., out] for x [..., in], in the dtype of x."""
        y: Tensor = _Product.apply(x, self)  # type: ignore[no-untyped-call]  # untyped in torch
        return y

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b."""
        y = self.product(x)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def with_weights(self, weight: Tensor, bias: Tensor | None) -> QuantizedLinear:
        """Return a layer of this kind on this device with other weights, quantized on the CPU as those of a policy.

        Args:
            weight: in the layout of the class that was quantized: [out, in], or [in, out] of Conv1D.
            bias: [out]; None for a layer without bias.
        """
        plain = self.to_plain()
        plain.weight = nn.Parameter(weight.cpu(), requires_grad=False)
        if bias is not None:
            plain.bias = nn.Parameter(bias.cpu(), requires_grad=False)
        return QuantizedLinear(plain.to(self._dtype), self.kind).to(self.weight.device)

    def to_plain(self) -> Any:
        """Return the layer with float32 weights of the same values, of the class that was quantized, on the CPU."""
        from transformers.pytorch_utils import Conv1D

        weight = self.dequantized().float().cpu()
        plain: Any = nn.Linear(1, 1, bias=self.bias is not None)
        if self._conv1d:
            plain = Conv1D(1, 1)  # type: ignore[no-untyped-call]  # untyped in transformers
        plain.weight = nn.Parameter(weight.t().contiguous() if self._conv1d else weight, requires_grad=False)
        if self._conv1d:
            plain.nx, plain.nf = self.in_features, self.out_features
        else:
            plain.in_features, plain.out_features = self.in_features, self.out_features
        if self.bias is not None:
            plain.bias = nn.Parameter(self.bias.detach().float().cpu().clone(), requires_grad=False)
        return plain


class _Product(torch.autograd.Function):
    """y = x Wᵀ, dx = dy W. The weight is dequantized in both passes and kept in neither."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return linear(x, layer.dequantized(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (dy,) = grads
        return dy @ ctx.layer.dequantized(dy.dtype), None


def _quantized(matrix: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return the codes and scales of a matrix [out, in]."""
    import bitsandbytes.functional as bnb

    if kind == "int8":
        codes, scale, _ = bnb.int8_vectorwise_quant(matrix.half())  # its kernels read float16
        return codes, scale.float()
    codes, state = bnb.quantize_4bit(matrix, blocksize=_BLOCK, quant_type="nf4")
    rows, columns = matrix.shape
    return (codes.view(rows, columns // 2) if columns % 2 == 0 else codes.flatten()), state.absmax.float()


def _dequantized(codes: Tensor, scale: Tensor, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the matrix of codes and scales."""
    import bitsandbytes.functional as bnb

    if codes.dtype == torch.int8:
        whole: Tensor = bnb.int8_vectorwise_dequant(codes, scale)
        return whole.to(dtype)
    quant_state: Any = bnb.QuantState
    state = quant_state(absmax=scale, shape=torch.Size(shape), blocksize=_BLOCK, quant_type="nf4", dtype=dtype)
    matrix: Tensor = bnb.dequantize_4bit(codes.view(-1, 1), state)
    return matrix


def check_quantization_package() -> None:
    """Raise MissingExtraError without bitsandbytes."""
    if find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quant")


def quantize_base(lm: Any, kind: str, skipped: list[str]) -> None:
    """Quantize the frozen linear layers of a model in place, except for the head.

    Args:
        lm: a transformers model, with or without adapters on its layers.
        kind: nf4 or int8.
        skipped: names of layers whose weights the model reads without calling them.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    from transformers.pytorch_utils import Conv1D

    check_quantization_package()
    head = lm.get_output_embeddings()
    excluded = {id(lm.get_submodule(name)) for name in skipped} | {id(head)}
    layers: dict[int, QuantizedLinear] = {}  # layers that are in the model twice stay one
    for parent in list(lm.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) not in (nn.Linear, Conv1D) or id(layer) in excluded or _is_trained(layer):
                continue
            layers.setdefault(id(layer), QuantizedLinear(layer, kind))
            setattr(parent, name, layers[id(layer)])


def _is_trained(layer: nn.Module) -> bool:
    """Return True for the matrices of an adapter."""
    return any(p.requires_grad for p in layer.parameters())
