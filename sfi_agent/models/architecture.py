"""What the runtime must know of a model before it serves it."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel

from sfi_agent.errors import ModelError

SERVED_LAYERS = {"full_attention", "sliding_attention"}
LENGTH_DEPENDENT_ROPE = {"dynamic", "longrope"}


@dataclass(frozen=True)
class Architecture:
    """Facts read off a model's configuration.

    Attributes:
        family: transformers' ``model_type``.
        layers: hidden layers.
        window: tokens that prompt and answer may have together.
        rows_alone: rotary scaling depends on the longest row of a call, so rows share none.
    """

    family: str
    layers: int
    window: int
    rows_alone: bool

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
        return cls(
            family, config.num_hidden_layers, window_of(config), _rope_type(config) in LENGTH_DEPENDENT_ROPE
        )


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


def _rope_type(config: PreTrainedConfig) -> str | None:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return rope.get("rope_type") or rope.get("type")
