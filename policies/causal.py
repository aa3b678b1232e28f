"""A policy that is any transformers decoder, with adapters or trained in full."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlalign.errors import UserError
from rlalign.policies.base import CachedPrefix, DecodeState, Policy, TokenScores
from rlalign.policies.device import compute_dtype
from rlalign.policies.export_tokenizer import as_transformers
from rlalign.policies.options import PolicyOptions
from rlalign.policies.quiet import quiet
from rlalign.policies.sampling.decoding_weights import Decoder
from rlalign.policies.sampling.fast_decoder import LeanModel
from rlalign.policies.saved import save_card
from rlalign.policies.scoring.backbone import Backbone
from rlalign.policies.scoring.linear import LoraLinear, speed_up
from rlalign.policies.scoring.token_scores import score_actions
from rlalign.policies.seeds import seeded
from rlalign.policies.value_head import ValueHead, state_values
from rlalign.types import Sampling, Tokenizer

_VALUE_HEAD, _VALUE_BODY = "value_head.safetensors", "value_body.safetensors"


class CausalPolicy(Policy):
    """A causal language model with LoRA adapters or trained in full, with optional values and a frozen reference.

    A value model is a second body, which starts as a copy of the policy's, and a head. What is frozen is shared: with
    adapters it costs adapters of its own; trained in full it costs the weights again, and their gradients.

    Args:
        lm: a transformers `...ForCausalLM` on the CPU; the policy owns and changes it.
        tokenizer: what its ids mean.
        options: rank (None counts as 0 here), precision, values.
        seed: of the adapters' initial values.
        device: where to put it.
        keep_reference: keep a frozen copy when trained in full; with adapters the frozen base is the reference.
    """

    def __init__(
        self,
        lm: Any,
        tokenizer: Tokenizer,
        *,
        options: PolicyOptions,
        seed: int = 0,
        device: torch.device | str = "cpu",
        keep_reference: bool = True,
    ) -> None:
        super().__init__()
        device = torch.device(device)
        self.tokenizer, self.options = tokenizer, options
        self._compute = compute_dtype(options.dtype, device)
        self._has_lora = bool(options.lora_r)
        for module in lm.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        # Masks come from the rollout: no id is a pad to the embedding, or an EOS that doubles as one would never learn.
        lm.get_input_embeddings().padding_idx = None
        lm.requires_grad_(not self._has_lora)
        # With adapters the frozen weights stand in the compute dtype; what the optimizer moves is float32.
        lm.to(self._compute if self._has_lora else torch.float32)
        self.model = _with_lora(lm, options, seed) if self._has_lora else lm
        speed_up(self.model)
        self.value_head: ValueHead | None = None
        if options.value != "none":
            width = lm.config.get_text_config().hidden_size
            self.value_head = ValueHead(width, detached=options.value_detached)
        self.to(device)
        self.eval()
        self._lm = (lm,)  # in a tuple: the module tree has it already
        self._backbone = Backbone(lm)
        if options.gradient_checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._backbone.verify(lm)
        with self._autocast():
            self._backbone.try_packing(lm)
        self._decoder = Decoder(lm, self._backbone, self._compute)
        self.value_body: nn.Module | None = None
        if options.value == "model":
            self._value_backbone = _second(lm)
            self.value_body = self._value_backbone.body
        self.reference: nn.Module | None = None
        if keep_reference and not self._has_lora:
            self.reference = copy.deepcopy(lm).to(self._compute).requires_grad_(False)
            self._reference_backbone = Backbone(self.reference)

    # ---- what it is ----

    @property
    def lm(self) -> Any:
        """The transformers model, adapters inside."""
        return self._lm[0]

    @property
    def compute_dtype(self) -> torch.dtype:
        """The format that log-probs are computed in."""
        return self._compute

    @property
    def packs(self) -> bool:
        """See `Policy.packs`; `lm.set_attn_implementation("sdpa")` turns it off."""
        return self._backbone.packs

    def input_embeddings(self) -> Tensor:
        """Input embeddings [V, d] as they are now, without gradient."""
        weight: Tensor = self.lm.get_input_embeddings().weight
        return weight.detach()

    # ---- scoring ----

    def score(
        self,
        tokens: Tensor,
        lengths: Tensor,
        action_mask: Tensor,
        sampling: Sampling,
        *,
        entropy: bool = False,
        values: bool = False,
    ) -> TokenScores:
        """Score the masked tokens with gradient; see `Policy.score`."""
        if values and self.value_head is None:
            raise UserError("values were asked of a policy without any: set --objective.value.kind head or model")
        head = self.value_head if values and self.value_body is None else None
        tokens, lengths, action_mask = tokens.cpu(), lengths.cpu(), action_mask.cpu()
        with self._autocast():
            scores = _score(self._backbone, tokens, lengths, action_mask, sampling, entropy=entropy, value_head=head)
            if values and self.value_body is not None and self.value_head is not None:
                states, final = self._value_backbone.states(tokens, lengths, action_mask, with_final=True)
                assert final is not None
                found, last = state_values(self.value_head, states, final, action_mask)
                scores = replace(scores, values=found, final_values=last)
        return scores

    def reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        """Log-probs under the start: adapters switched off, or the frozen copy. UserError when none was kept."""
        backbone, disabled = self._backbone, nullcontext()
        if self._has_lora:
            disabled = self.model.disable_adapter()
        elif self.reference is not None:
            backbone = self._reference_backbone
        else:
            raise UserError("no reference was kept: build the policy with keep_reference=True")
        with torch.no_grad(), disabled:
            return _score(backbone, tokens.cpu(), lengths.cpu(), action_mask.cpu(), sampling).logprobs

    def _autocast(self) -> AbstractContextManager[Any]:
        """Full training in bfloat16 keeps float32 masters and casts them for each product."""
        mixed = self._compute != torch.float32 and not self._has_lora
        return torch.autocast(self.device.type, dtype=self._compute) if mixed else nullcontext()

    # ---- decoding ----

    def begin_rollout(self) -> None:
        """Bring what decodes up to date; see `Decoder`."""
        self._decoder.refresh()

    @property
    def decoder(self) -> Any:
        """The transformers model of the sampling distribution, up to date."""
        return self._decoder.lm

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[DecodeState, Tensor]:
        """Read each context once and repeat it; see `Policy.prefill`."""
        self._decoder.catch_up()
        backbone = self._decoder.backbone
        hidden, state = backbone.read(contexts, self.device)
        index = torch.arange(len(contexts)).repeat_interleave(torch.as_tensor(repeats)).to(self.device)
        logits = backbone.head(hidden).float()[index]
        state.select(index)
        return state, logits

    @property
    def lean(self) -> LeanModel | None:
        """What decodes, if it is a `LeanModel`."""
        return self._decoder.lean

    @torch.no_grad()
    def extend_cache(
        self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix]
    ) -> tuple[DecodeState, Tensor]:
        """Read the contexts on from what was kept of them; see `Policy.extend_cache`."""
        lean = self._decoder.lean
        assert lean is not None
        hidden, state = lean.extend_cache(contexts, lean.recall(contexts, cached))
        return state, lean.head(hidden).float()

    @torch.no_grad()
    def decode(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Append one token to each row; see `Policy.decode`."""
        backbone: Any = self._decoder.backbone
        logits: Tensor = backbone.head(backbone.advance(state, tokens))
        return logits.float()

    # ---- files ----

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` loads: merged weights (safetensors), tokenizer,
        the adapters in `adapter/` (peft) with what they stand on in `base/` where that is nowhere else, and the value's
        head and body (merged), as far as there are any."""
        folder.mkdir(parents=True, exist_ok=True)
        with quiet():
            if self._has_lora:
                self._save_adapter(folder)
                merged = copy.deepcopy(self.model).merge_and_unload()
                merged.save_pretrained(folder)
            else:
                self.lm.save_pretrained(folder)
        save_card(folder, "causal", self.tokenizer, vocab_size=self._backbone.vocab_size)
        if (hf := as_transformers(self.tokenizer)) is not None:
            hf.save_pretrained(folder)
        for name in (_VALUE_HEAD, _VALUE_BODY):  # one that lies there would be taken for this policy's
            (folder / name).unlink(missing_ok=True)
        if self.value_head is not None:
            weights = {n: p.detach().cpu().contiguous() for n, p in self.value_head.state_dict().items()}
            save_file(weights, folder / _VALUE_HEAD)
        if self.value_body is not None:
            save_file(_merged(self.value_body), folder / _VALUE_BODY)

    def _save_adapter(self, folder: Path) -> None:
        """The adapter, which names its base: a hub id, the absolute path of a folder, or of `base/` here."""
        name, config = self.lm.name_or_path, self.model.peft_config["default"]
        if not name:  # made from scratch: the frozen weights are nowhere else
            copy.deepcopy(self.model).unload().save_pretrained(folder / "base")
            name = str(folder / "base")
        config.base_model_name_or_path = str(Path(name).resolve()) if Path(name).is_dir() else name
        self.model.save_pretrained(folder / "adapter")

    def load_value(self, folder: Path) -> None:
        """Take up the value that `save_pretrained` wrote if it is of this policy's kind; else it stays at its start."""
        had = saved_value(folder)
        if self.value_head is None or had != self.options.value:
            return
        self.value_head.load_state_dict(load_file(folder / _VALUE_HEAD, device=str(self.device)))
        if self.value_body is not None:
            _replace_weights(self.value_body, load_file(folder / _VALUE_BODY, device=str(self.device)))


def saved_value(folder: Path) -> Literal["none", "head", "model"]:
    """The kind of value that a policy folder holds."""
    if not (folder / _VALUE_HEAD).is_file():
        return "none"
    return "model" if (folder / _VALUE_BODY).is_file() else "head"


def _score(
    backbone: Backbone,
    tokens: Tensor,
    lengths: Tensor,
    action_mask: Tensor,
    sampling: Sampling,
    *,
    entropy: bool = False,
    value_head: ValueHead | None = None,
) -> TokenScores:
    states, final = backbone.states(tokens, lengths, action_mask, with_final=value_head is not None)
    return score_actions(
        states,
        final,
        tokens,
        action_mask,
        sampling,
        scorer=backbone.scorer,
        entropy=entropy,
        value_head=value_head,
    )


def _second(lm: Any) -> Backbone:
    """A backbone with parameters of its own for all that is trained, equal at first; the rest is shared, as is the
    language-model head, which nothing of the second backbone passes through."""
    head = lm.get_output_embeddings()
    frozen = [p for p in lm.parameters() if not p.requires_grad]
    return Backbone(copy.deepcopy(lm, {id(kept): kept for kept in (head, *frozen, *lm.buffers())}))


def _merged(body: nn.Module) -> dict[str, Tensor]:
    """The weights of a body by the names that it had without adapters, these added in."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain = copy.deepcopy(body)
    for module in plain.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    kept = {n.replace(".base_layer.", "."): p for n, p in plain.named_parameters() if ".lora_" not in n}
    return {n: p.detach().cpu().contiguous() for n, p in kept.items()}


def _replace_weights(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put what `_merged` returned under the adapters of a body; frozen weights are no longer shared then."""
    for name, old in list(body.named_parameters()):
        if ".lora_" not in name:
            where, _, leaf = name.rpartition(".")
            new = nn.Parameter(weights[name.replace(".base_layer.", ".")].to(old), requires_grad=old.requires_grad)
            setattr(body.get_submodule(where), leaf, new)


def _with_lora(lm: Any, options: PolicyOptions, seed: int) -> Any:
    """Adapters on all linear layers but the head, float32, their values drawn from the seed."""
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        r=options.lora_r or 0,
        lora_alpha=options.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in lm.modules()),  # GPT-2's way round
        task_type="CAUSAL_LM",
    )
    with seeded(seed), warnings.catch_warnings():
        # peft asks transformers by a name that is on its way out; nothing a user could do
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        model = get_peft_model(lm, config, autocast_adapter_dtype=True)
    for module in model.modules():
        # Conv1D (GPT-2) holds its weight the other way round: peft's own layer does it.
        if isinstance(module, LoraLinear.__mro__[1]) and type(module.base_layer) is nn.Linear:
            module.__class__ = LoraLinear
    return model
