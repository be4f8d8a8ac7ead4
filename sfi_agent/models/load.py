"""From what a user names (a hub name, folder, GGUF file or model object) to a model and tokenizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sfi_agent.environment import expanded
from sfi_agent.errors import ModelError, SettingError, UnknownNameError
from sfi_agent.models.convert import dense_weights
from sfi_agent.models.embedded import EMBEDDED, ensure_embedded
from sfi_agent.models.quiet import quiet_transformers

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Loaded:
    """A model in eval mode on its device, its tokenizer, and the name it was asked for by."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load(
    model: str | Path | PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> Loaded:
    """Load a causal language model.

    Args:
        model: ``smollm2-135m`` (embedded), a folder, a ``.gguf`` file, a hub name, or a model.
        tokenizer: needed beside a model object; replaces the model's own otherwise.
        device: ``auto`` (CUDA where there is one), ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``auto`` (the checkpoint's), ``bfloat16``, ``float16`` or ``float32``.

    Raises:
        ModelError: not found, not readable, or no causal language model.
        SettingError: unknown device or dtype.
    """
    from transformers import AutoModelForCausalLM, PreTrainedModel

    place, kind = device_of(device), _dtype(dtype)
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise ModelError("a model object comes without its tokenizer; pass tokenizer= as well")
        name = str(model.config._name_or_path or type(model).__name__)
        own = torch.device(model.device)
        return Loaded(name, _placed(model, own if device == "auto" else place, kind), tokenizer)
    source, options = _source(str(model))
    unpacked = dense_weights() if options else {}
    try:
        with quiet_transformers():
            tokenizer = tokenizer or _tokenizer(source, options)
            result: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=kind or "auto", output_loading_info=True, **options, **unpacked
            )
    except Exception as error:  # transformers raises dozens of kinds; users need one line
        raise ModelError(f"cannot load model {str(model)!r}: {_told(error, source)}") from error
    loaded, report = result
    if missing := sorted(report["missing_keys"]):  # transformers has filled them with random numbers
        raise ModelError(
            f"cannot load model {str(model)!r}: its checkpoint lacks {len(missing)} weights, "
            f"{missing[0]} first; fetch it again"
        )
    return Loaded(str(model), _placed(loaded, place, None), tokenizer)


def _tokenizer(source: str, options: dict[str, Any]) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer; without its files transformers makes an empty one for some families."""
    from transformers import AutoTokenizer

    made: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **options)
    if set(made.get_vocab().values()) <= {*made.all_special_ids, *made.added_tokens_decoder}:
        raise ValueError("its tokenizer's files are missing")
    return made


def _placed(model: PreTrainedModel, device: torch.device, dtype: torch.dtype | None) -> PreTrainedModel:
    """The model itself, moved, in eval mode."""
    nn.Module.to(model, device, dtype or model.dtype)
    model.train(False)
    return model


def _source(name: str) -> tuple[str, dict[str, Any]]:
    """Where transformers should look, and with which options."""
    if not name:
        raise ModelError("the model's name is empty; name a folder, a .gguf file or an embedded model")
    if name in EMBEDDED:
        return str(ensure_embedded(name)), {}
    path = expanded(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such GGUF file: {name}; check the path")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file() and (files := sorted(path.glob("*.gguf"))):
            return str(path), {"gguf_file": files[0].name}
        if not (path / "config.json").is_file():
            raise ModelError(f"folder {name!r} holds no config.json and no .gguf file, so it is no model")
        return str(path), {}
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UnknownNameError(
            "model", name, EMBEDDED, " Or name a folder, a .gguf file or a hub model (owner/name)."
        )
    return name, {}


def device_of(name: str) -> torch.device:
    """The device a user names; ``auto`` is CUDA where there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place: torch.device | None = torch.device(name)
    except RuntimeError:  # torch knows no such device
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise SettingError(f"device: must be auto, cpu, cuda or cuda:N (given {name!r})")
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise SettingError(
            f"device {name!r} is not on this machine, which has {torch.cuda.device_count()} CUDA devices"
        )
    return place


def _dtype(name: str) -> torch.dtype | None:
    if name != "auto" and name not in DTYPES:
        raise UnknownNameError("dtype", name, ["auto", *DTYPES])
    return DTYPES.get(name)


def _told(error: Exception, source: str) -> str:
    """What is wrong with a checkpoint, and how to mend it."""
    import transformers

    if found := re.search(r"model type `(.*?)` but Transformers does not recognize", str(error)):
        return (
            f"transformers {transformers.__version__} does not know model type {found[1]!r}; take another "
            "model, or a transformers that knows it"
        )
    if str(error).startswith("Couldn't instantiate the backend tokenizer"):
        return f"its tokenizer's files are missing, or need sentencepiece or tiktoken; {_mend(source)}"
    return f"{_first_line(error)}; {_mend(source)}"


def _mend(source: str) -> str:
    if Path(source).exists():
        return "it may be damaged or half a download: fetch it again"
    return "check the name and the network, or name a folder, a .gguf file or an embedded model"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
