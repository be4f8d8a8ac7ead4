"""Does this model come out the same through sfi-agent as through transformers?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sfi_agent.evaluate.teacher import Reader
from sfi_agent.runtime.runtime import Runtime

TOKENS = 48


@dataclass(frozen=True)
class SelfCheck:
    """Logits of one prompt, read by transformers and by the runtime.

    Attributes:
        name: the model.
        family: its ``model_type``.
        largest_difference: over all positions and tokens, as a share of the largest logit.
        agree: share of positions with the same best token.
    """

    name: str
    family: str
    largest_difference: float
    agree: float


def selfcheck(runtime: Runtime) -> SelfCheck:
    """Read the same seeded random tokens both ways (chunked on our side), and compare."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = len(runtime.tokenizer)
    tokens = torch.randint(0, vocabulary, (TOKENS,), generator=generator).tolist()
    reader = Reader(runtime, runtime.parts(runtime.policy).kernel)
    parts = [tokens[: TOKENS // 2], tokens[TOKENS // 2 : -1], tokens[-1:]]
    ours = torch.cat([reader.read(part, wanted=len(part)) for part in parts]).float()
    with runtime.transformers() as model, torch.inference_mode():
        theirs = model(torch.tensor([tokens], device=model.device)).logits[0].float()
    return SelfCheck(
        name=runtime.name,
        family=runtime.architecture.family,
        largest_difference=float((ours - theirs).abs().max() / theirs.abs().max()),
        agree=float((ours.argmax(-1) == theirs.argmax(-1)).float().mean()),
    )
