"""Draw docs/images/memory.png: which positions of its context each decode step of a real answer read.

Usage: python docs/picture.py (needs the extra ``docs``). The prompt is the README's, asked to go on.
"""

from __future__ import annotations

import heapq
from pathlib import Path

import matplotlib as mpl
import torch

from sfi_agent import Policy, Runtime, Sampling
from sfi_agent.runtime.session import Session

mpl.use("agg")
from matplotlib import pyplot as plt

TARGET = Path(__file__).parent / "images" / "memory.png"
STEPS = 120


def main() -> None:
    """Decode, note what every step reads, draw."""
    runtime = Runtime.load("smollm2-135m", dtype="float32")
    prompt = runtime.encode(f"{heapq.__about__}\n\nExplain at length what a heap is and what it is good for.")
    sampling = Sampling(max_new_tokens=STEPS + 1, ignore_eos=True)
    rows, slow, policy = [], [], Policy(max_interval=48)
    with runtime.stream(prompt, policy=policy, sampling=sampling, session="picture") as stream:
        next(stream)
        for _ in stream:
            rows.append(shares(runtime.sessions["picture"], len(prompt) + STEPS))
            slow.append(stream.result.slow_steps)
    draw(torch.stack(rows), slow, len(prompt))


def shares(session: Session, width: int) -> torch.Tensor:
    """``[width]``: the share of layers and KV heads whose memory holds each position."""
    memory = session.row.memory
    held = torch.zeros(width)
    if memory is None or any(layer.chosen is None for layer in memory.layers.values()):  # a slow step
        held[: len(session.tokens) - 1] = 1
        return held
    for layer in memory.layers.values():
        chosen = layer.chosen[-1]  # of a selector that re-ranks, such as the default one
        held += torch.bincount(chosen[chosen >= 0], minlength=width) / chosen.shape[0]
        held[: layer.ranking.start] += 1
    held /= len(memory.layers)
    held[layer.ranking.stop : len(session.tokens) - 1] = 1
    return held


def draw(image: torch.Tensor, slow: list[int], prompt: int) -> None:
    """The image, a mark at every slow step, and the prompt's end."""
    figure, axes = plt.subplots(figsize=(10, 3.6), dpi=110, layout="constrained")
    shown = axes.imshow(image, aspect="auto", cmap="magma_r", interpolation="nearest", vmin=0, vmax=1)
    steps = [step for step in range(len(slow)) if slow[step] > (slow[step - 1] if step else 0)]
    axes.hlines(steps, 0, image.shape[1], colors="tab:blue", linewidth=1, label="slow step: reads everything")
    axes.axvline(prompt, color="gray", linewidth=0.8, linestyle=":", label="end of the prompt")
    axes.set(xlim=(0, image.shape[1]), xlabel="position in the context", ylabel="decode step")
    axes.legend(loc="lower left", fontsize=8)
    figure.colorbar(shown, label="share of layers and heads\nthat hold the position")
    TARGET.parent.mkdir(exist_ok=True)
    figure.savefig(TARGET)
    print(f"wrote {TARGET.name}")


if __name__ == "__main__":
    main()
