"""A GGUF file of a transformers folder, for llama.cpp.

Matrices of the layers get the type of the form. Norms, biases and the positions of GPT-2 stay in float32. In forms of 4
and 5 bits the embedding and the head are in Q8_0: errors there reach every log-prob directly, and the k-quants that
llama.cpp's own tools use for them are not available in numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rlalign.export.forms import Form
from rlalign.export.gguf_families import find_family, gguf_tensors
from rlalign.export.gguf_tokenizer import GgufTokenizer, gguf_tokenizer
from rlalign.policies.device import hidden_progress_bars
from rlalign.policies.model_files import ModelFiles

_BLOCK = 32
"""Weights per block of the quantized types. A row that is no multiple of it is stored in F16."""


def write_gguf(source: Path, target: Path, form: Form, title: str) -> GgufTokenizer:
    """Write a GGUF file of a transformers folder and return its tokenizer.

    Args:
        source: folder with weights, configuration and tokenizer.
        target: the file to write.
        form: of the format gguf.
        title: name of the model in the header.

    Raises:
        UserError: llama.cpp has no such architecture or tokenizer.
    """
    import gguf
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(source)
    family = find_family(config)
    generation = ModelFiles(str(source)).read_json("generation_config.json") or {}
    with hidden_progress_bars():
        model: Any = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True)
    rows = int(model.get_input_embeddings().weight.shape[0])
    tokenizer = gguf_tokenizer(AutoTokenizer.from_pretrained(source), rows, generation)
    writer = gguf.GGUFWriter(target, family.arch)
    for key, value in family.metadata(config).items():
        add = writer.add_float32 if isinstance(value, float) else writer.add_uint32
        add(f"{family.arch}.{key}", rows if key == "vocab_size" else value)
    writer.add_name(title)
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[form.quantize]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_tokenizer(writer, tokenizer)
    for name, tensor in gguf_tensors(config, model.state_dict()):
        kind = gguf.GGMLQuantizationType[_tensor_type(name, tensor, form.quantize).upper()]
        array = np.ascontiguousarray(tensor.detach().float().numpy())
        writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tokenizer


_FILE_TYPES = {
    "f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0", "q5_1": "MOSTLY_Q5_1",
    "q5_0": "MOSTLY_Q5_0", "q4_1": "MOSTLY_Q4_1", "q4_0": "MOSTLY_Q4_0",
}  # fmt: skip
"""Type of the form -> its name as the type of a whole file."""


def _tensor_type(name: str, tensor: Tensor, kind: str) -> str:
    """Return the type of a tensor in a file of a form, as GGUF names it in lower case."""
    if tensor.dim() < 2 or name.startswith("position_embd"):
        return "f32"
    if kind in ("q5_1", "q5_0", "q4_1", "q4_0") and name.startswith(("token_embd", "output")):
        kind = "q8_0"
    return "f16" if kind.startswith("q") and tensor.shape[-1] % _BLOCK else kind


def _add_tokenizer(writer: Any, tokenizer: GgufTokenizer) -> None:
    """Add the entries of a tokenizer to the header."""
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name of byte-level BPE
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    writer.add_token_merges(tokenizer.merges)
    writer.add_bos_token_id(tokenizer.bos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    if tokenizer.eot_id is not None:
        writer.add_eot_token_id(tokenizer.eot_id)
    if tokenizer.pad_id is not None:
        writer.add_pad_token_id(tokenizer.pad_id)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(False)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)
