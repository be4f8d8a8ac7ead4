"""From a GGUF file to safetensors, which load in a second instead of half a minute."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sfi_agent.models.quiet import quiet_transformers


def convert_gguf(gguf: Path, target: Path) -> None:
    """Write the model and tokenizer of ``gguf`` into the folder ``target``, in bfloat16.

    Every file is on disk when this returns. Raises whatever transformers raises.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {
        "pretrained_model_name_or_path": str(gguf.parent),
        "gguf_file": gguf.name,
        "local_files_only": True,
    }
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(dtype=torch.bfloat16, **source, **dense_weights())
        _forget_quantization(model)
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    sync_folder(target)


def dense_weights() -> dict[str, Any]:
    """The argument that unpacks weights at load; versions without it always unpack."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config else {}


def _forget_quantization(model: Any) -> None:
    """The weights are dense now; a saved config that says otherwise would not load."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False


def sync_folder(folder: Path) -> None:
    """Flush the folder and the files in it to disk, so that a rename publishes whole files."""
    for path in (*folder.iterdir(), folder):
        sync(path)


def sync(path: Path) -> None:
    """Flush one file, or one folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
