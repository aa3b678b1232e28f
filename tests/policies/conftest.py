"""Tiny model folders, made from configurations."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

TEXTS = ["the cat sat on the mat", "2+3=5 4+4=8 one two three", "user: hello assistant: world", "a b c d e f"] * 8
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}


def bpe(
    folder=None, *, specials=("<eos>", "<|end|>", "<|user|>", "<|assistant|>"), eos="<eos>", template=None, pad=None
):
    """Return a byte-level BPE tokenizer of 300 tokens; ids 0, 1, ... are the special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=list(specials), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    core.train_from_iterator(TEXTS, trainer)
    hf = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token=eos, pad_token=pad, clean_up_tokenization_spaces=False
    )
    hf.chat_template = template
    if folder is not None:
        hf.save_pretrained(folder)
    return hf


def llama(folder=None, *, model_class="LlamaForCausalLM", eos=(0,), seed=0, **settings):
    """Return a Llama model of 300 tokens; with a folder, write it and its generation_config.json."""
    import torch
    import transformers

    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        **{"vocab_size": 300, **SIZES, **IDS, "num_key_value_heads": 2, "tie_word_embeddings": False, **settings}
    )
    model = getattr(transformers, model_class)(config)
    if folder is not None:
        if model_class == "LlamaForCausalLM":
            model.generation_config.eos_token_id = list(eos)
        model.save_pretrained(folder)
    return model


def complete(folder, **settings):
    """Write a chat model with its tokenizer and return the folder."""
    bpe(folder, template=TEMPLATE)
    llama(folder, **settings)
    return folder


def copied(source: Path, target: Path) -> Path:
    """Return a copy of a folder."""
    shutil.copytree(source, target)
    return target


def edit_json(path: Path, **values):
    """Change entries of a JSON file; None deletes an entry."""
    content = json.loads(path.read_text())
    for key, value in values.items():
        if value is None:
            content.pop(key, None)
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def edit_weights(folder: Path, *, drop=(), add=None):
    """Rewrite model.safetensors without some tensors and with others."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = {k: v.clone() for k, v in load_file(path).items() if not any(d in k for d in drop)}
    path.unlink()
    save_file({**weights, **(add or {})}, path, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def folders():
    """Return the functions of this file."""
    return SimpleNamespace(
        TEMPLATE=TEMPLATE, bpe=bpe, llama=llama, complete=complete, copied=copied, edit_json=edit_json,
        edit_weights=edit_weights,
    )  # fmt: skip


@pytest.fixture(scope="session")
def chat(tmp_path_factory):
    """Return a chat model whose EOS is token 0, and whose turn ends with token 1 by the template alone."""
    return complete(tmp_path_factory.mktemp("chat"))
