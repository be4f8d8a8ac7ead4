"""Digests that tell one model or tokenizer from another."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAMPLE = 1024
"""Elements of each weight that the fingerprint reads."""


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Of names, shapes and dtypes of the weights, and ``SAMPLE`` elements of each."""
    return _weights(model).hexdigest()[:16]


def model_fingerprint(model: PreTrainedModel) -> str:
    """Of the weights as above and the rotary settings: what decides the keys and values of a text."""
    digest = _weights(model)
    config = model.config.get_text_config(decoder=True)
    rotary = [getattr(config, name, None) for name in ("rope_parameters", "rope_theta", "rope_scaling")]
    digest.update(json.dumps(rotary, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of the vocabulary: every token, in the order of ids."""
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    text = "\0".join(map(str, tokens))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _weights(model: PreTrainedModel) -> hashlib._Hash:
    digest = hashlib.sha256()
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        flat = weight.detach().flatten()
        sampled = flat[:: max(1, flat.numel() // SAMPLE)]
        digest.update(sampled.to("cpu", torch.float64).numpy().tobytes())
    return digest
