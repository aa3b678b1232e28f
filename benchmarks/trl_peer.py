"""TRL's side of the speed benchmarks: its GRPOTrainer, tuned, and its own update from given completions.

Tuned means: gradient checkpointing off, beta 0 (no reference), no pass for old log-probs, bf16 as an option, and a
micro-batch that the caller chooses. No code of TRL is replaced. A logits processor of transformers forces the lengths
of the completions.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import shapes
import torch
from torch import Tensor


def trainer(
    lm: Any,
    *,
    micro_batch: int,
    bf16: bool,
    device: str,
    lr: float,
    steps: int = 1,
    callbacks: Sequence[Any] = (),
    rows: int = shapes.PROMPTS * shapes.GROUP,
    limit: int = shapes.LIMIT,
) -> Any:
    """Return a GRPOTrainer of a float32 model on the prompts of `shapes`, with `rows` samples per step."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    vocab = lm.config.vocab_size
    texts = [" ".join(map(str, p)) for p in shapes.prompts(vocab)]
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=rows // micro_batch,
        num_generations=shapes.GROUP,
        max_completion_length=limit,
        max_steps=steps,
        learning_rate=lr,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        weight_decay=0.0,
        beta=0.0,
        loss_type="dapo",
        gradient_checkpointing=False,
        bf16=bf16,
        use_cpu=device == "cpu",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        shuffle_dataset=False,
        seed=0,
    )
    return GRPOTrainer(
        model=lm,
        reward_funcs=parity,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        processing_class=shapes.hf_tokenizer(vocab),
        callbacks=list(callbacks),
    )


class ForcedLengths:
    """A logits processor that ends row i with EOS as its token number limits[i], and not earlier."""

    def __init__(self, limits: Sequence[int], prompt: int, eos: int) -> None:
        self.limits, self.prompt, self.eos = torch.tensor(limits), prompt, eos

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores of the next token in place and return them."""
        scores[:, self.eos] = -torch.inf
        self.limits = self.limits.to(scores.device)  # a copy at the first call only
        last = self.limits <= input_ids.shape[1] - self.prompt + 1
        scores.masked_fill_(last[:, None], -torch.inf)
        scores[:, self.eos].masked_fill_(last, 0.0)
        return scores


def force_lengths(lm: Any, limits: Sequence[int]) -> None:
    """Make `lm.generate` end its rows after the given numbers of tokens."""
    from transformers import LogitsProcessorList

    generate = lm.generate

    def forced(*args: Any, input_ids: Tensor, **kwargs: Any) -> Any:
        processor = ForcedLengths(limits, input_ids.shape[1], shapes.Ids.eos_id)
        return generate(*args, input_ids=input_ids, logits_processor=LogitsProcessorList([processor]), **kwargs)

    lm.generate = forced


def parity(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """Return rewards without cost that differ within a group: the parity of the first id."""
    return [float(ids[0] % 2) for ids in completion_ids]


class Update:
    """TRL's loss, backward pass and AdamW step on given completions.

    Args:
        lm: float32 model.
        prompts: N rows of ids.
        completions: N rows of ids.
        advantages: float [N].
        micro_batch: rows per backward pass.
        bf16: whether to use autocast in bfloat16.
        device: device of the tensors.
        lr: learning rate.
    """

    def __init__(
        self,
        lm: Any,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        advantages: Tensor,
        *,
        micro_batch: int,
        bf16: bool,
        device: str,
        lr: float,
    ) -> None:
        self.trainer = trainer(lm, micro_batch=micro_batch, bf16=bf16, device=device, lr=lr, rows=len(prompts))
        self.micro_batch = micro_batch
        self.steps = len(prompts) // micro_batch
        self.trainer.current_gradient_accumulation_steps = self.steps
        self.trainer.create_optimizer()
        self.model = self.trainer.model.train()
        pad = torch.nn.utils.rnn.pad_sequence

        def padded(rows: Sequence[Sequence[int]], side: str) -> tuple[Tensor, Tensor]:
            ids = pad([torch.tensor(r) for r in rows], batch_first=True, padding_side=side)
            mask = pad([torch.ones(len(r), dtype=torch.int64) for r in rows], batch_first=True, padding_side=side)
            return ids.to(device), mask.to(device)

        prompt_ids, prompt_mask = padded(prompts, "left")
        completion_ids, completion_mask = padded(completions, "right")
        self.inputs = {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
            "advantages": advantages.to(device),
        }
        self.count = completion_mask.sum()

    def gradient(self) -> None:
        """Accumulate the gradient over the micro-batches."""
        for i in range(0, self.steps * self.micro_batch, self.micro_batch):
            part = {name: x[i : i + self.micro_batch] for name, x in self.inputs.items()}
            loss = self.trainer._compute_loss(self.model, {**part, "num_items_in_batch": self.count})
            self.trainer.accelerator.backward(loss)

    def __call__(self) -> None:
        """Run one optimizer step."""
        self.gradient()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad(set_to_none=True)
