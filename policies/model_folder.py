"""Inspection of a model folder: all facts about a model that can be known without loading its weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.policies.model_files import (
    ModelFiles,
    StoredTensor,
    check_hub,
    described,
    first_line,
    read_headers,
    sha256,
)
from rlalign.policies.model_kind import Kind, Quantization, architecture_of, causal_class, kind_of, quantization_of
from rlalign.policies.stop_tokens import configured_eos
from rlalign.policies.tokenizer_facts import TOKENIZER_FILES, TokenizerFacts, read_tokenizer
from rlalign.policies.weight_names import WeightNames, compare_weights, hidden_warnings

_DIGESTED = ("config.json", "generation_config.json", "adapter_config.json", *TOKENIZER_FILES, "chat_template.jinja")
_WRAPPERS = re.compile(r"\.(modules_to_save|original_module|token_adapter\.base_layer)(?=\.)")


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter of a folder that peft wrote.

    Attributes:
        base: folder or hub id of the base model; "" if adapter_config.json does not name it.
        method: name of the method, such as LORA.
        task: peft's task type, such as CAUSAL_LM; None if it is not named.
        rank: rank of LoRA; None for other methods.
        tensors: the stored tensors of the adapter.
    """

    base: str
    method: str
    task: str | None
    rank: int | None
    tensors: Mapping[str, StoredTensor]


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Everything about a model that its files tell without its weights.

    Attributes:
        name: folder or hub id, as passed.
        kind: what it holds.
        model_type: family in transformers' names, such as llama; None for an adapter whose base is unknown.
        architecture: class that wrote the folder, as config.json names it; None if it names none.
        config: the transformers configuration, with a padding id that the embedding has; None for an adapter.
        adapter: the adapter if `kind` is adapter.
        base: inspection of the adapter's base model; None without an adapter, or if the base is not named.
        quantization: how the weights are quantized; None if they are not.
        embedding_rows: number of token ids that the model reads; None if unknown.
        output_rows: number of token ids that the model generates; None if unknown.
        tokenizer: the tokenizer.
        stop_ids: tokens that end a turn: the EOS list of generation_config.json, EOS of config.json and of the
            tokenizer, the end of turn of the template; without those that the model cannot generate.
        dtype: format of most stored weights, such as bfloat16; None if the weights are not on this machine.
        tensors: the stored tensors by name; empty if they are not on this machine.
        weights: the stored names against those of the model class; None if they were not compared.
        digests: file -> sha256 of the configuration and tokenizer files.
    """

    name: str
    kind: Kind
    model_type: str | None
    architecture: str | None
    config: Any
    adapter: Adapter | None
    base: ModelFolder | None
    quantization: Quantization | None
    embedding_rows: int | None
    output_rows: int | None
    tokenizer: TokenizerFacts
    stop_ids: frozenset[int]
    dtype: str | None
    tensors: Mapping[str, StoredTensor]
    weights: WeightNames | None
    digests: Mapping[str, str]


def inspect_model(name: str | Path, *, trust_remote_code: bool = False) -> ModelFolder:
    """Return the facts of a local folder or of a hub id; load no weight.

    It raises only where a file cannot be read. `rlalign.policies.model_refusals` decides what can be trained.

    Args:
        name: folder or hub id. Of a hub id the weights are inspected if they are in the cache.
        trust_remote_code: the configuration and tokenizer may run code of the model's repository.

    Raises:
        UserError: a file is missing, damaged or of an unknown family, or the hub cannot be reached.
    """
    check_hub(str(name))
    files = ModelFiles(str(name))
    digests = {file: sha256(path) for file in _DIGESTED if (path := files.find(file)) is not None}
    adapter_config = files.read_json("adapter_config.json")
    if adapter_config is not None:
        return _inspect_adapter(files, adapter_config, digests, trust_remote_code)
    content = files.read_json("config.json")
    if content is None:
        got = "a folder without it" if files.is_local else "no folder, and no hub id that is in the cache"
        raise UserError(
            f"'{name}': expected config.json of a model, got {got}; use a folder that save_pretrained wrote"
        )
    config = _read_config(files, content, trust_remote_code)
    kind = kind_of(content, config)
    tensors = read_headers(files.weight_files(), files.name)
    quantization = quantization_of(content)
    weights, model = None, None
    model_class = causal_class(config)
    if tensors and quantization is None and model_class is not None and kind in ("causal", "body"):
        try:
            weights, model = compare_weights(model_class, config, tensors)
        except Exception as error:  # a value that a constructor does not expect raises errors of any type
            raise UserError(
                f"'{files.name}': expected a config.json that {model_class.__name__} can be built from, got an error "
                f"({described(error)}); use the config.json of these weights"
            ) from error
    text = config.get_text_config()
    embedding_rows = _rows(model, "get_input_embeddings") or getattr(text, "vocab_size", None)
    output_rows = _rows(model, "get_output_embeddings") or embedding_rows
    tokenizer = read_tokenizer(files, embedding_rows, trust_remote_code)
    stops = configured_eos(files.read_json("generation_config.json"), content)
    stops |= {i for i in (tokenizer.eos_id, tokenizer.end_of_turn_id) if i is not None}
    return ModelFolder(
        name=files.name,
        kind=kind,
        model_type=content.get("model_type"),
        architecture=architecture_of(content),
        config=config,
        adapter=None,
        base=None,
        quantization=quantization,
        embedding_rows=embedding_rows,
        output_rows=output_rows,
        tokenizer=tokenizer,
        stop_ids=frozenset(i for i in stops if output_rows is None or i < output_rows),
        dtype=_main_dtype(tensors),
        tensors=tensors,
        weights=weights,
        digests=digests,
    )


def _inspect_adapter(
    files: ModelFiles, content: dict[str, Any], digests: Mapping[str, str], trust_remote_code: bool
) -> ModelFolder:
    """Return the facts of an adapter: its own, and those of its base."""
    base_name = str(content.get("base_model_name_or_path") or "")
    rank = content.get("r")
    if not isinstance(rank, int | None):
        raise UserError(
            f"'{files.name}': expected a number for r in adapter_config.json, got {rank!r}; use a complete copy"
        )
    tensors = read_headers(files.weight_files("adapter_model"), files.name)
    adapter = Adapter(
        base=base_name,
        method=str(content.get("peft_type")),
        task=content.get("task_type"),
        rank=rank,
        tensors=tensors,
    )
    base = _inspect_base(files, base_name, trust_remote_code) if base_name else None
    embedding_rows, output_rows = _adapted_rows(base, tensors) if base else (None, None)
    tokenizer = read_tokenizer(files, embedding_rows, trust_remote_code)
    if tokenizer.hf is None and tokenizer.error is None and base is not None:
        tokenizer = base.tokenizer
    stops = set(base.stop_ids) if base else set()
    stops |= configured_eos(files.read_json("generation_config.json"))
    stops |= {i for i in (tokenizer.eos_id, tokenizer.end_of_turn_id) if i is not None}
    return ModelFolder(
        name=files.name,
        kind="adapter",
        model_type=base.model_type if base else None,
        architecture=base.architecture if base else None,
        config=None,
        adapter=adapter,
        base=base,
        quantization=base.quantization if base else None,
        embedding_rows=embedding_rows,
        output_rows=output_rows,
        tokenizer=tokenizer,
        stop_ids=frozenset(i for i in stops if output_rows is None or i < output_rows),
        dtype=_main_dtype(tensors),
        tensors=tensors,
        weights=None,
        digests=digests,
    )


def _adapted_rows(base: ModelFolder, tensors: Mapping[str, StoredTensor]) -> tuple[int | None, int | None]:
    """Return the rows of the input and output embeddings of an adapted base, to which an adapter may add tokens."""
    for name, tensor in tensors.items():
        of_base = base.tensors.get(plain_name(name).removeprefix("base_model.model."))
        if of_base is None or not tensor.shape or not of_base.shape:
            continue
        if of_base.shape[0] == base.embedding_rows and of_base.shape[1:] == tensor.shape[1:]:
            return tensor.shape[0], tensor.shape[0]
    return base.embedding_rows, base.output_rows


def plain_name(name: str) -> str:
    """Return the name of a tensor in an adapter's file without peft's wrappers of whole modules and tokens.

    Example:
        >>> plain_name("lm_head.modules_to_save.weight"), plain_name("wte.token_adapter.base_layer.weight")
        ('lm_head.weight', 'wte.weight')
    """
    return _WRAPPERS.sub("", name)


def _inspect_base(adapter: ModelFiles, name: str, trust_remote_code: bool) -> ModelFolder:
    """Return the facts of an adapter's base model. Raises UserError, which names both, if the base cannot be read."""
    inside = Path(adapter.name) / name  # peft reads a relative path from the working directory
    beside = Path(adapter.name).parent / Path(name).name  # a run's policy/base, moved with its policy/adapter
    moved = Path(adapter.name) / Path(name).name  # a run's policy with its policy/base, moved
    if not Path(name).is_dir():
        name = next((str(path) for path in (inside, beside, moved) if (path / "config.json").is_file()), name)
    if Path(name).is_dir() and ModelFiles(name).find("adapter_config.json") is not None:
        raise UserError(f"'{adapter.name}': expected a model as the base of the adapter, got the adapter '{name}'")
    try:
        return inspect_model(name, trust_remote_code=trust_remote_code)
    except UserError as error:
        raise UserError(
            f"'{adapter.name}': expected the base model '{name}' of the adapter, got none that can be read ({error}); "
            "set base_model_name_or_path in its adapter_config.json"
        ) from error


def _read_config(files: ModelFiles, content: dict[str, Any], trust_remote_code: bool) -> Any:
    """Return the transformers configuration, without a padding id that the embedding does not have.

    torch refuses an embedding whose padding_idx is past its end. Padding is identified by masks here, so that the id is
    not needed.

    Raises:
        UserError: the family is unknown, or the configuration is invalid.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    try:
        with hidden_warnings():
            config = AutoConfig.from_pretrained(files.name, trust_remote_code=trust_remote_code)
    except Exception as error:  # values raise errors of many types, and so may code of the model's repository
        if "trust_remote_code" in str(error):
            raise UserError(
                f"policy '{files.name}' needs code from its own repository, which is not run; use "
                "--model.trust-remote-code if you trust its author as you trust yourself"
            ) from error
        if isinstance(error, OSError) and "auto_map" in content:
            raise UserError(
                f"'{files.name}': expected the code that auto_map in config.json names, got an error "
                f"({first_line(error)}); use a complete copy of the model"
            ) from error
        if str(content.get("model_type")) in CONFIG_MAPPING:
            raise UserError(
                f"'{files.name}': expected a valid config.json, got an error ({' '.join(str(error).split())[:300]}); "
                "use the config.json of the model"
            ) from error
        raise UserError(
            f"'{files.name}': expected a model family that transformers has, got model_type "
            f"{content.get('model_type')!r} ({first_line(error)}); use another model, or a newer transformers"
        ) from error
    text = config.get_text_config()
    rows, pad = getattr(text, "vocab_size", None), getattr(text, "pad_token_id", None)
    if isinstance(rows, int) and isinstance(pad, int) and not -rows <= pad < rows:
        text.pad_token_id = None
    return config


def _rows(model: Any, accessor: str) -> int | None:
    """Return the number of rows of a model's input or output embedding; None if it has none."""
    if model is None:
        return None
    try:
        module = getattr(model, accessor)()
    except (NotImplementedError, AttributeError):
        return None
    weight = getattr(module, "weight", None)
    return None if weight is None else int(weight.shape[0])


def _main_dtype(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Return the format of most stored tensors, in torch's names; None without tensors."""
    if not tensors:
        return None
    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    dtype = Counter(t.dtype for t in tensors.values()).most_common(1)[0][0]
    return names.get(dtype, dtype)
