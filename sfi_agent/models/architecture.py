"""What the runtime must know of a model before it serves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfi_agent.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SERVED_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True)
class Architecture:
    """Facts read off a model's configuration.

    Attributes:
        family: transformers' ``model_type``.
        layers: hidden layers.
        window: tokens that prompt and answer may have together.
        rotary_limit: contexts of more tokens are read with other rotary frequencies (longrope's long
            factors), so keys of the two kinds must not meet; None where the frequencies never change.
    """

    family: str
    layers: int
    window: int
    rotary_limit: int | None

    @classmethod
    def of(cls, model: PreTrainedModel) -> Architecture:
        """Read ``model``.

        Raises:
            ModelError: sfi-agent cannot serve it; says why.
        """
        config = model.config.get_text_config(decoder=True)
        family = str(config.model_type)
        if not getattr(model, "_supports_attention_backend", False):
            raise ModelError(
                f"model type {family!r} does not route its attention through transformers' "
                "AttentionInterface; use a decoder that does (Llama, Qwen, Mistral, Gemma, Phi, ...)"
            )
        _check_layers(config, family)
        return cls(family, config.num_hidden_layers, window_of(config), rotary_limit(config))

    @staticmethod
    def token_bytes(model: PreTrainedModel) -> int:
        """Bytes of one position's keys and values in all layers, as far as the configuration tells."""
        config = model.config.get_text_config(decoder=True)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * dim * model.dtype.itemsize)


def window_of(config: PreTrainedConfig) -> int:
    """Positions the model was made for; a very large number where it does not say."""
    return int(getattr(config, "max_position_embeddings", None) or 2**31)


def _check_layers(config: PreTrainedConfig, family: str) -> None:
    kinds = list(getattr(config, "layer_types", None) or [])
    sliding = getattr(config, "sliding_window", None)
    if not kinds:
        all_slide = sliding and sliding < window_of(config) and getattr(config, "use_sliding_window", True)
        kinds = ["sliding_attention" if all_slide else "full_attention"]
    if foreign := sorted(set(kinds) - SERVED_LAYERS):
        raise ModelError(
            f"model type {family!r} has layers of kind {', '.join(foreign)}, which sfi-agent does not serve; "
            f"it serves {', '.join(sorted(SERVED_LAYERS))}"
        )
    if "full_attention" not in kinds:
        raise ModelError(
            f"model type {family!r} has no full-attention layer (its window is {sliding} tokens everywhere), "
            "so a sparse memory has nothing to save; use transformers directly"
        )


def rotary_limit(config: PreTrainedConfig) -> int | None:
    """Tokens past which longrope takes its long factors; None where that is not within the window.

    The other scalings are constant up to the window (``dynamic`` begins to scale where that ends).
    """
    rope = getattr(config, "rope_parameters", None) or {}
    each = [rope, *(part for part in rope.values() if isinstance(part, dict))]  # some scale by layer type
    limits = [
        part["original_max_position_embeddings"] for part in each if part.get("rope_type") == "longrope"
    ]
    within = [int(limit) for limit in limits if limit < window_of(config)]
    return min(within, default=None)
