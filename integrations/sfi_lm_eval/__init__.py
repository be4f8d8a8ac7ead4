"""The runtime as a model of EleutherAI's lm-evaluation-harness; importing this registers it as ``sfi``."""

try:
    from sfi_lm_eval.model import SFILM
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lm_eval":
        raise
    raise ModuleNotFoundError(
        "sfi_lm_eval needs EleutherAI's lm-evaluation-harness: pip install 'sfi-agent[lm-eval]'",
        name="lm_eval",
    ) from None

__all__ = ["SFILM"]
