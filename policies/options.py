"""Settings of a policy, for every kind of policy."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import check_range

_DTYPES = ("auto", "float32", "bfloat16")
_ON_ADAPTER = ("continue", "merge")
_MAX_RANK = 65_536  # above the width of every model, so that a higher rank could add nothing
_VALUES = ("none", "head", "model")
_MAX_TOKENS = 4096  # virtual tokens: each costs as much as a token of every context
_KINDS = ("none", "lora", "rslora", "dora", "adalora", "ia3", "prefix", "prompt")
_LOW_RANK = ("lora", "rslora", "dora", "adalora")
_VIRTUAL = ("prefix", "prompt")
_BASES = ("none", "nf4", "int8")
DEFAULT_RANK = 8
"""Rank of an adapter whose rank is not set."""


@dataclass(frozen=True)
class AdapterOptions:
    """The adapter that is trained over frozen weights. Its dropout is 0, so that scores are those of the sampler."""

    kind: Literal["none", "lora", "rslora", "dora", "adalora", "ia3", "prefix", "prompt"] | None = None
    """none: train every weight; lora: low-rank matrices; rslora: lora with the scale alpha / sqrt(r); dora: lora with a
    trained magnitude of each output; adalora: singular values, of which the least important are removed during the run;
    ia3: one factor per key, value and feed-forward unit; prefix: keys and values of virtual tokens in each layer;
    prompt: embeddings of virtual tokens before each context; None: lora if pretrained or if adapter.r is set, else
    none."""
    r: int | None = None
    """Rank of lora, rslora and dora; of adalora the mean rank at the end, which begins at 1.5 times that; None: 8."""
    alpha: int = 16
    """Scale of low-rank adapters: their output is multiplied by alpha / r (rslora: alpha / sqrt(r))."""
    targets: str = "auto"
    """Adapted layers: all-linear, or endings of their names with commas between, such as q_proj,v_proj; auto:
    all-linear, or for ia3 the layers that peft names for the architecture."""
    tokens: int = 16
    """Number of virtual tokens of prefix and prompt. The model's positions for contexts are fewer by it."""

    def __post_init__(self) -> None:
        if self.kind not in (None, *_KINDS):
            raise UserError(f"unknown adapter.kind '{self.kind}'.{did_you_mean(self.kind, _KINDS)}")
        if self.r is not None:
            fix = "use a rank of 1 or more, or --model.adapter.kind none to train every weight"
            check_range("adapter.r", self.r, least=1, most=_MAX_RANK, fix=fix)
            if self.kind == "none":
                raise UserError(
                    f"adapter.r {self.r}: expected a kind of adapter, got none, which trains every weight; use "
                    "--model.adapter.kind lora, or leave adapter.r out"
                )
        check_range("adapter.alpha", self.alpha, least=1, fix="an adapter of scale 0 has no effect: use 16")
        check_range("adapter.tokens", self.tokens, least=1, most=_MAX_TOKENS, fix="use 16")
        if not all(name.strip() for name in self.targets.split(",")):
            raise UserError(f"adapter.targets: expected names of layers, got '{self.targets}'; use all-linear")

    @classmethod
    def lora(cls, r: int) -> AdapterOptions:
        """Return the options of LoRA of a rank; 0: those of full fine-tuning."""
        return cls("lora", r=r) if r else cls("none")

    def resolved(self, default: Literal["none", "lora"] = "none") -> AdapterOptions:
        """Return the options with an open kind and rank filled in.

        Args:
            default: the kind if neither kind nor rank is set.
        """
        kind = self.kind or (default if self.r is None else "lora")
        rank = (self.r or DEFAULT_RANK) if kind in _LOW_RANK else self.r
        return replace(self, kind=kind, r=rank)

    @property
    def is_trained(self) -> bool:
        """True if the options name an adapter; an open kind does not."""
        return self.kind not in (None, "none")

    @property
    def description(self) -> str:
        """The adapter in words."""
        words = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "adalora": "AdaLoRA", "ia3": "IA3"}
        if self.is_virtual:
            return f"{self.kind} of {self.tokens} virtual tokens"
        return words.get(str(self.kind), "no adapter") + (f" of rank {self.r}" if self.is_low_rank else "")

    @property
    def is_low_rank(self) -> bool:
        """True for the kinds that read r and alpha."""
        return self.kind in _LOW_RANK

    @property
    def is_virtual(self) -> bool:
        """True for prefix and prompt, which add virtual tokens and change no weight."""
        return self.kind in _VIRTUAL


@dataclass(frozen=True)
class PolicyOptions:
    """Settings of a policy; each kind of policy ignores the settings that do not concern it."""

    adapter: AdapterOptions = field(default_factory=AdapterOptions)
    """The adapter that is trained over frozen weights, or none."""
    base: Literal["none", "nf4", "int8"] = "none"
    """Format of the frozen weights under an adapter. none: that of dtype; nf4: 4 bits, as in QLoRA; int8: 8 bits, one
    scale per output. They are stored in it and computed in dtype. Needs the extra `quant`."""
    on_adapter: Literal["continue", "merge"] | None = None
    """Use of a policy folder that is a PEFT adapter. continue: train that adapter; merge: add it to its base in float32
    and train the result as a model; None: continue, or merge if the adapter cannot be continued, such as with other
    settings of adapter than its own. The reference policy is the adapter's model in either case."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute precision. auto: float32 from scratch; for a pretrained model bfloat16 if the device multiplies it
    natively, else float32. Trained weights are float32 always."""
    value: Literal["none", "head", "model"] = "none"
    """Source of the values. none: no values; head: a head on the policy's body; model: a second body. A run takes it
    from --objective.value.kind."""
    value_detached: bool = False
    """Stop the gradient of the value loss at the head, so that only the head is trained by it."""
    gradient_checkpointing: bool = False
    """Keep only the inputs of the layers in the update and recompute the rest: a third slower, for models that do not
    fit otherwise."""
    trust_remote_code: bool = False
    """Run the Python code in a hub model's repository. It can do anything that you can."""
    hidden_size: int = 64
    """Width of a policy from scratch (tiny, gru); a multiple of 16."""
    layers: int = 2
    """Number of transformer layers of a policy from scratch (tiny)."""

    def __post_init__(self) -> None:
        if self.base not in _BASES:
            raise UserError(f"unknown base '{self.base}'.{did_you_mean(self.base, _BASES)}")
        if self.base != "none" and self.adapter.kind == "none":
            raise UserError(
                f"base {self.base}: expected an adapter over the quantized weights, got full fine-tuning; use "
                "--model.adapter.kind lora, or --model.base none"
            )
        if self.adapter.is_virtual:
            self._check_virtual()
        if self.on_adapter not in (None, *_ON_ADAPTER):
            raise UserError(f"unknown on_adapter '{self.on_adapter}'.{did_you_mean(self.on_adapter, _ON_ADAPTER)}")
        if self.dtype not in _DTYPES:
            raise UserError(f"unknown dtype '{self.dtype}'.{did_you_mean(self.dtype, _DTYPES)}")
        if self.value not in _VALUES:
            raise UserError(f"unknown value '{self.value}'.{did_you_mean(self.value, _VALUES)}")
        # 16 is the width of an attention head of `tiny`
        if self.hidden_size < 16 or self.hidden_size % 16:
            raise UserError(f"hidden_size: expected a multiple of 16, got {self.hidden_size}; use 16, 32, 64, ...")
        check_range("layers", self.layers, least=1)

    def _check_virtual(self) -> None:
        """Raise UserError for settings that virtual tokens exclude."""
        kind = self.adapter.kind
        if self.gradient_checkpointing:
            raise UserError(
                f"gradient_checkpointing: expected an adapter of weights, got {kind}, whose virtual tokens are a cache "
                "that checkpointed layers do not read; use --model.no-gradient-checkpointing, or another kind"
            )
        if self.value == "model":
            raise UserError(
                f"value model: expected an adapter of weights, got {kind}, which changes no weight of a second body; "
                "use --objective.value.kind head"
            )


def check_no_adapter(name: str, options: PolicyOptions | None, *, kind: str) -> None:
    """Raise UserError if the options request an adapter or a quantized base of a policy that has no layers for them.

    Args:
        name: of the policy, for the message.
        options: of the user; None requests nothing.
        kind: of the policy: gru or tabular.
    """
    if options is None:
        return
    what = "" if name == kind else f", a saved {kind}"
    if options.adapter.resolved().is_trained:
        raise UserError(
            f"policy '{name}'{what}: expected adapter.kind none, because it has no layers that adapters know, got "
            f"{options.adapter.resolved().description}; leave the settings of adapters out"
        )
    if options.base != "none":
        raise UserError(
            f"policy '{name}'{what}: expected base none, because it has no layers that adapters know, got "
            f"{options.base}; leave --model.base out"
        )
