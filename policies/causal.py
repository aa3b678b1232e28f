"""A policy around any transformers decoder, with LoRA adapters or full fine-tuning."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rlalign.policies.base import DecodeState, Policy, TokenScores
from rlalign.policies.device import compute_dtype, hidden_progress_bars
from rlalign.policies.export_tokenizer import as_transformers
from rlalign.policies.lora import add_lora, merged_weights, replace_base_weights
from rlalign.policies.options import PolicyOptions
from rlalign.policies.sampling.decoding_weights import DecodingWeights
from rlalign.policies.sampling.fast_decoder import FastDecoder, KVCache
from rlalign.policies.sampling.sampler import CachedPrefix
from rlalign.policies.saved import write_card
from rlalign.policies.scoring.backbone import Backbone
from rlalign.policies.scoring.linear import speed_up
from rlalign.policies.scoring.token_scores import score_actions
from rlalign.policies.value_head import ValueHead, state_values
from rlalign.types import Sampling, Tokenizer

_VALUE_HEAD = "value_head.safetensors"
_VALUE_BODY = "value_body.safetensors"


class CausalPolicy(Policy):
    """A causal language model with LoRA adapters or full fine-tuning, optional values and a frozen reference.

    A value model is a second body, initially a copy of the policy's, with a head. Frozen weights are shared. With
    adapters a value model costs adapters of its own; with full fine-tuning it costs the weights again, and their
    gradients.

    Args:
        lm: a transformers `...ForCausalLM` on the CPU. The policy owns and changes it.
        tokenizer: the meaning of the token ids.
        options: rank (None counts as 0 here), precision, values.
        seed: of the initial values of the adapters.
        device: device of the parameters.
        keep_reference: keep a frozen copy in full fine-tuning. With adapters the frozen base is the reference.
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
        self.tokenizer = tokenizer
        self.options = options
        self._compute = compute_dtype(options.dtype, device)
        self._has_lora = bool(options.lora_r)
        for module in lm.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        # Padding is identified by masks. An embedding with a padding_idx would never train that id, which may be EOS.
        lm.get_input_embeddings().padding_idx = None
        lm.requires_grad_(not self._has_lora)
        # With adapters the frozen weights are stored in the compute dtype. Trained parameters are float32 always.
        lm.to(self._compute if self._has_lora else torch.float32)
        self.model = add_lora(lm, options, seed) if self._has_lora else lm
        speed_up(self.model)
        self.value_head: ValueHead | None = None
        if options.value != "none":
            width = lm.config.get_text_config().hidden_size
            self.value_head = ValueHead(width, detached=options.value_detached)
        self.to(device)
        self.eval()
        self._lm = (lm,)  # in a tuple, because the module tree holds it already as part of self.model
        self._backbone = Backbone(lm)
        if options.gradient_checkpointing:
            lm.gradient_checkpointing_enable({"use_reentrant": False})
        self._backbone.verify(lm)
        with self._autocast():
            self._backbone.try_packing(lm)
        self._decoding = DecodingWeights(lm, self._backbone, self._compute)
        self.value_body: nn.Module | None = None
        if options.value == "model":
            self._value_backbone = _second_backbone(lm)
            self.value_body = self._value_backbone.body
        self.reference: nn.Module | None = None
        if keep_reference and not self._has_lora:
            self.reference = copy.deepcopy(lm).to(self._compute).requires_grad_(False)
            self._reference_backbone = Backbone(self.reference)

    # ---- properties ----

    @property
    def lm(self) -> Any:
        """The transformers model, with its adapters."""
        return self._lm[0]

    @property
    def compute_dtype(self) -> torch.dtype:
        """Format that log-probs are computed in."""
        return self._compute

    @property
    def packs(self) -> bool:
        """True if rows are scored without padding; see `SupportsPacking`. `lm.set_attn_implementation("sdpa")` turns
        it off."""
        return self._backbone.packs

    @property
    def has_values(self) -> bool:
        """True with a value head."""
        return self.value_head is not None

    @property
    def has_reference(self) -> bool:
        """True with adapters, which can be disabled, or with a frozen copy."""
        return self._has_lora or self.reference is not None

    def input_embeddings(self) -> Tensor:
        """Return the current input embeddings [V, d], without gradient."""
        weight: Tensor = self.lm.get_input_embeddings().weight
        return weight.detach()

    # ---- scoring ----

    def _score(
        self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling, *, entropy: bool, values: bool
    ) -> TokenScores:
        head = self.value_head if values and self.value_body is None else None
        tokens, lengths, action_mask = tokens.cpu(), lengths.cpu(), action_mask.cpu()
        with self._autocast():
            scores = _score_with(
                self._backbone, tokens, lengths, action_mask, sampling, entropy=entropy, value_head=head
            )
            if values and self.value_body is not None and self.value_head is not None:
                states, final = self._value_backbone.states(tokens, lengths, action_mask, with_final=True)
                assert final is not None
                action_values, final_values = state_values(self.value_head, states, final, action_mask)
                scores = replace(scores, values=action_values, final_values=final_values)
        return scores

    def _reference_logprobs(self, tokens: Tensor, lengths: Tensor, action_mask: Tensor, sampling: Sampling) -> Tensor:
        backbone = self._backbone if self._has_lora else self._reference_backbone
        with self.model.disable_adapter() if self._has_lora else nullcontext():
            return _score_with(backbone, tokens.cpu(), lengths.cpu(), action_mask.cpu(), sampling).logprobs

    def _autocast(self) -> AbstractContextManager[Any]:
        """Cast float32 master weights to bfloat16 for each matrix product, in full fine-tuning in bfloat16."""
        mixed = self._compute != torch.float32 and not self._has_lora
        return torch.autocast(self.device.type, dtype=self._compute) if mixed else nullcontext()

    # ---- decoding ----

    def begin_rollout(self) -> None:
        """Invalidate the decoding weights; see `DecodingWeights`."""
        self._decoding.invalidate()

    @property
    def decoding_lm(self) -> Any:
        """A transformers model of the sampling distribution, with the current weights."""
        return self._decoding.lm

    @property
    def fast_decoder(self) -> FastDecoder | None:
        """The optimized decoder; None if it does not support the model."""
        return self._decoding.fast_decoder

    @torch.no_grad()
    def prefill(self, contexts: Sequence[Sequence[int]], repeats: Sequence[int]) -> tuple[DecodeState, Tensor]:
        """Read each context once and repeat it; see `Policy.prefill`."""
        self._decoding.update()
        backbone = self._decoding.backbone
        hidden, state = backbone.read(contexts, self.device)
        rows = torch.arange(len(contexts)).repeat_interleave(torch.as_tensor(repeats)).to(self.device)
        # the head runs once per context, before the rows are repeated
        logits = backbone.head(hidden).float()[rows]
        state.select(rows)
        return state, logits

    @torch.no_grad()
    def extend_cache(self, contexts: Sequence[Sequence[int]], cached: Sequence[CachedPrefix]) -> tuple[KVCache, Tensor]:
        """Read the part of each context that is not cached; see `SupportsCachedDecoding`."""
        decoder = self._decoding.fast_decoder
        assert decoder is not None
        hidden, cache = decoder.extend_cache(contexts, decoder.restore(contexts, cached))
        return cache, decoder.head(hidden).float()

    @torch.no_grad()
    def decode(self, state: DecodeState, tokens: Tensor) -> Tensor:
        """Append one token to each row; see `Policy.decode`."""
        backbone: Any = self._decoding.backbone
        logits: Tensor = backbone.head(backbone.advance(state, tokens))
        return logits.float()

    # ---- files ----

    def save_pretrained(self, folder: Path) -> None:
        """Write a folder that `AutoModelForCausalLM.from_pretrained` loads.

        It holds the merged weights (safetensors) and the tokenizer. Adapters are in `adapter/`, and their base weights
        in `base/` if these are stored nowhere else. The value head and the merged value body are written if they exist.
        """
        folder.mkdir(parents=True, exist_ok=True)
        with hidden_progress_bars():
            if self._has_lora:
                self._save_adapter(folder)
                merged = copy.deepcopy(self.model).merge_and_unload()
                merged.save_pretrained(folder)
            else:
                self.lm.save_pretrained(folder)
        write_card(folder, "causal", self.tokenizer, vocab_size=self._backbone.vocab_size)
        exported = as_transformers(self.tokenizer)
        if exported is not None:
            exported.save_pretrained(folder)
        for name in (_VALUE_HEAD, _VALUE_BODY):  # a file of an earlier policy would be loaded as this policy's
            (folder / name).unlink(missing_ok=True)
        if self.value_head is not None:
            weights = {name: p.detach().cpu().contiguous() for name, p in self.value_head.state_dict().items()}
            save_file(weights, folder / _VALUE_HEAD)
        if self.value_body is not None:
            save_file(merged_weights(self.value_body), folder / _VALUE_BODY)

    def _save_adapter(self, folder: Path) -> None:
        """Write the adapter, which names its base: a hub id, the absolute path of a folder, or of `base/` here."""
        name = self.lm.name_or_path
        config = self.model.peft_config["default"]
        if not name:  # a model from scratch: its frozen weights are stored nowhere else
            copy.deepcopy(self.model).unload().save_pretrained(folder / "base")
            name = str(folder / "base")
        config.base_model_name_or_path = str(Path(name).resolve()) if Path(name).is_dir() else name
        self.model.save_pretrained(folder / "adapter")

    def load_value(self, folder: Path) -> None:
        """Load the value that `save_pretrained` wrote if it is of this policy's kind; else keep the initial value."""
        if self.value_head is None or saved_value(folder) != self.options.value:
            return
        self.value_head.load_state_dict(load_file(folder / _VALUE_HEAD, device=str(self.device)))
        if self.value_body is not None:
            replace_base_weights(self.value_body, load_file(folder / _VALUE_BODY, device=str(self.device)))


def saved_value(folder: Path) -> Literal["none", "head", "model"]:
    """Return the kind of value in a policy folder."""
    if not (folder / _VALUE_HEAD).is_file():
        return "none"
    return "model" if (folder / _VALUE_BODY).is_file() else "head"


def _score_with(
    backbone: Backbone,
    tokens: Tensor,
    lengths: Tensor,
    action_mask: Tensor,
    sampling: Sampling,
    *,
    entropy: bool = False,
    value_head: ValueHead | None = None,
) -> TokenScores:
    """Score tokens on the CPU by a backbone, with values if a head is passed."""
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


def _second_backbone(lm: Any) -> Backbone:
    """Return a backbone with a copy of each trained parameter.

    Frozen parameters are shared, and so is the language-model head, which the second backbone does not use.
    """
    head = lm.get_output_embeddings()
    frozen = [p for p in lm.parameters() if not p.requires_grad]
    # deepcopy takes an object from this memo instead of copying it
    memo = {id(shared): shared for shared in (head, *frozen, *lm.buffers())}
    return Backbone(copy.deepcopy(lm, memo))
