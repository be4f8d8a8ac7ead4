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
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    sync_folder(target)


def dense_weights() -> dict[str, Any]:
    """The argument that unpacks weights at load; packed ones cannot be saved.

    Versions of transformers that lack it always unpack.
    """
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config else {}


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
