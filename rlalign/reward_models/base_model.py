"""A causal model or a sequence classifier as the start of a reward model: one output, float32, its own padding token.

transformers reads the score of a decoder at the last token that is not the padding token. If that is the EOS token, as
in SmolLM2 and most Llamas, the end of a text is never read: a finished and a cut text score equally. The reward model
then gets another padding token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.policies.model_files import check_hub
from rlalign.rewards.reward_model.manifest import Form
from rlalign.rewards.reward_model.rendering import Renderer, Sample

PAD = "<|rm_pad|>"
EOS = "<|rm_end|>"
"""End of a text for a model that has no EOS token, such as BERT."""
_HEADS = ("score", "classifier", "classification_head", "pooler", "pre_classifier", "out_proj", "summary", "head")


def base_folder(model: str) -> str:
    """Return the folder or hub id of a model's name; `smollm2` is fetched once.

    Raises:
        UserError: a folder that is an adapter, or a path that is no folder.
    """
    if model == "smollm2":
        from rlalign.policies.pretrained import smollm2_folder

        return str(smollm2_folder())
    path = Path(model).expanduser()
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            raise UserError(
                f"--model '{model}': expected a complete model, got an adapter; merge it into its base in float32 "
                "first (`merge_and_unload`), or use the base"
            )
        return str(path)
    if model.startswith((".", "/", "~")):
        raise UserError(f"--model '{model}': expected a folder, got none; use a folder, a hub id, smollm2 or linear")
    check_hub(model, thing="model", names="smollm2, linear")
    return model


def load_base(model: str, *, seed: int) -> tuple[Any, Any]:
    """Return a model with one output in float32, whose head is drawn from the seed, and its tokenizer.

    Raises:
        UserError: the model cannot be loaded, or weights other than those of the head are missing.
    """
    name = base_folder(model)  # before the heavy imports
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    set_seed(seed)  # the head is drawn while the model is loaded
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        with suppress_seqcls_warning():
            loaded, info = AutoModelForSequenceClassification.from_pretrained(
                name, num_labels=1, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
                ignore_mismatched_sizes=True, output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"--model '{model}': expected a causal model or a sequence classifier with its tokenizer, got an error "
            f"({reason}); use a folder, a hub id, smollm2 or linear"
        ) from error
    absent = [*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])]
    if missing := sorted(key for key in absent if not any(part in _HEADS for part in key.split("."))):
        raise UserError(
            f"--model '{model}': expected all weights but those of the head, got none for {missing[0]}; use a complete "
            "model"
        )
    return loaded, tokenizer


def form_of(tokenizer: Any, wanted: str, *, messages: bool) -> Form:
    """Return how conversations are rendered.

    Args:
        tokenizer: of the model.
        wanted: "auto", "text" or "chat".
        messages: the data has messages.

    Raises:
        UserError: the data has messages, and the model no chat template.
    """
    if wanted in ("text", "chat"):
        return "chat" if wanted == "chat" else "text"
    if messages and not tokenizer.chat_template:
        raise UserError(
            "expected a chat template for data of messages, got a tokenizer without one; use the model of a chat, or "
            "form text, which joins the contents of the messages"
        )
    return "chat" if messages else "text"


def separate_pad(model: Any, tokenizer: Any, form: Form) -> None:
    """Give a model a padding token that is neither the EOS token nor part of a rendered conversation.

    The embedding grows by the token if it has no row for it. The row is never read: attention masks it.
    """
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": EOS})
    rendered = Renderer(tokenizer, form).ids(Sample("Hello.", "Good day."))
    pad = tokenizer.pad_token_id
    if pad is None or pad == tokenizer.eos_token_id or pad in rendered:
        tokenizer.add_special_tokens({"pad_token": PAD})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    config = model.config.get_text_config()
    for each in {id(model.config): model.config, id(config): config}.values():
        each.pad_token_id = tokenizer.pad_token_id
        each.eos_token_id = tokenizer.eos_token_id
