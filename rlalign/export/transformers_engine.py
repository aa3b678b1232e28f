"""A form that transformers, and peft for an adapter, loads by their public functions.

Code of this library runs in two cases alone: to sample from the distribution of the run, and for the base of an adapter
that was trained over quantized weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class TransformersEngine:
    """A model that `from_pretrained` has loaded on the CPU.

    Args:
        path: folder or hub id of the model.
        adapter: folder of a peft adapter; None without one.
        dtype: float32, or auto for the dtype of the files.
        base: quantization of the base, nf4 or int8 as in `--model.base`, and the dtype it was computed from; None: the
            base as it is. The dequantized weights are read, as the policy does.
    """

    def __init__(self, path: str, adapter: str | None, dtype: str, base: list[str] | None = None) -> None:
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # untyped in transformers
        self._path = path
        chosen: Any = "auto" if dtype == "auto" else getattr(torch, dtype)
        # without trust_remote_code=False, transformers asks on the standard input, which is the worker's own
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            path, dtype=chosen, use_safetensors=True, trust_remote_code=False
        )
        if base is not None:
            self.model = _over_quantized(self.model, *base)
        if adapter is not None:
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, adapter, torch_device="cpu")
        self.model.eval()

    @torch.no_grad()
    def logprobs(self, row: list[int], positions: list[int]) -> NDArray[np.float32]:
        """Return log-probs [n, V] of the token after each of n positions."""
        logits = self.model(input_ids=torch.tensor([row]), use_cache=False).logits[0, positions]
        result: NDArray[np.float32] = logits.float().log_softmax(-1).numpy()
        return result

    @torch.no_grad()
    def sample(self, contexts: list[list[int]], request: dict[str, Any]) -> tuple[list[list[int]], list[list[float]]]:
        """Continue contexts, left-padded, token by token; see `FormEngine.sample`."""
        generator = torch.Generator().manual_seed(request["seed"])
        width = max(map(len, contexts))
        ids = torch.tensor([[0] * (width - len(context)) + context for context in contexts])
        mask = torch.tensor([[0] * (width - len(context)) + [1] * len(context) for context in contexts])
        stop = torch.tensor(request["stop_ids"])
        limits = torch.tensor(request["max_new"])
        active = limits > 0
        tokens: list[list[int]] = [[] for _ in contexts]
        logprobs: list[list[float]] = [[] for _ in contexts]
        cache = None
        while active.any():
            positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
            output = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
            )
            cache = output.past_key_values
            distribution = sampling_logprobs(output.logits[:, -1], request)
            if request["greedy"]:
                drawn = distribution.argmax(-1)
            else:
                drawn = torch.multinomial(distribution.exp(), 1, generator=generator).squeeze(-1)
            chosen = distribution.gather(-1, drawn[:, None]).squeeze(-1)
            for i in active.nonzero().flatten().tolist():
                tokens[i].append(int(drawn[i]))
                logprobs[i].append(float(chosen[i]))
            lengths = torch.tensor([len(row) for row in tokens])
            active = active & ~torch.isin(drawn, stop) & (lengths < limits)
            ids = drawn[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], -1)
        return tokens, logprobs

    @torch.no_grad()
    def generate(self, context: list[int], rows: int, count: int) -> None:
        """Generate exactly `count` tokens in each of `rows` rows with `generate`, as its users do."""
        ids = torch.tensor([context] * rows)
        self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=count,
            max_new_tokens=count,
            pad_token_id=0,
        )

    def text(self, texts: list[str], chats: list[Any], ids: list[list[int]]) -> dict[str, Any]:
        """Return what the tokenizer of the folder and its chat template make of texts and messages.

        The result has the keys of `LlamaEngine.text`. transformers has no chat endpoint, so `nats` are 0.
        """
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(self._path, trust_remote_code=False)
        template = {"add_generation_prompt": True, "tokenize": False}
        prompts = [tokenizer.apply_chat_template(chat, **template) for chat in chats]
        found = [tokenizer(text)["input_ids"] for text in texts]
        found += [tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] for chat in chats]
        return {"ids": found, "prompts": prompts, "nats": [0.0] * len(chats)}


def _over_quantized(model: Any, kind: str, dtype: str) -> Any:
    """Return a float32 model with the values of a base that `--model.base` quantizes."""
    from rlalign.policies.lora import not_adaptable
    from rlalign.policies.quantized_base import quantize_base
    from rlalign.policies.weight_dtype import cast_weights, float32_copy

    cast_weights(model.requires_grad_(False), getattr(torch, dtype))
    quantize_base(model, kind, not_adaptable(model))
    return float32_copy(model)


def sampling_logprobs(logits: Tensor, request: dict[str, Any]) -> Tensor:
    """Return log-probs [N, V] of the sampling distribution of a request, by the code that the policy samples with."""
    # imported here: a process whose memory is measured does not sample
    from rlalign.policies.logits import process
    from rlalign.types import Sampling

    sampling = Sampling(temperature=request["temperature"], top_k=request["top_k"], top_p=request["top_p"])
    return process(logits, sampling).log_softmax(-1)
