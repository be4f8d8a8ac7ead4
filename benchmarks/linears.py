"""From how many tokens on it pays to widen bfloat16 weights: ``python benchmarks/cpu.py linears``."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from record import Record, interleaved
from torch import Tensor, nn
from torch.nn.functional import linear
from workload import MODEL

from sfi_agent.runtime.linear import Float32Linear

TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LAYERS = 6
"""Layers whose weights each sample reads: more than a core's cache holds."""
ROUNDS = 5


def linears(record: Record, quick: bool) -> None:
    """CPU milliseconds of linear layers on one thread: plain bfloat16, widened in use, and float32."""
    weights = _weights(1 if quick else LAYERS)
    wide = [weight.float() for weight in weights]
    sizes = {weight.shape[1] for weight in weights}
    for tokens in TOKENS[::4] if quick else TOKENS:
        inputs = {size: torch.randn(tokens, size, dtype=torch.bfloat16) for size in sizes}
        wide_inputs = {size: each.float() for size, each in inputs.items()}
        runs = {
            "bfloat16": _timed(weights, inputs),
            "widened": _widened(_timed(weights, inputs)),
            "float32": _timed(wide, wide_inputs),
        }
        samples = interleaved(runs, 2 if quick else ROUNDS)
        record.add(f"linear layers, {tokens} tokens", "ms", samples)
        record.ratio(f"bfloat16 over widened, {tokens} tokens", samples["bfloat16"], samples["widened"])
        record.ratio(f"bfloat16 over float32, {tokens} tokens", samples["bfloat16"], samples["float32"])


def _weights(layers: int) -> list[Tensor]:
    from sfi_agent import Runtime

    model = Runtime.load(MODEL, dtype="bfloat16").model
    modules = [module for layer in model.model.layers[:layers] for module in layer.modules()]
    return [module.weight.detach() for module in modules if isinstance(module, nn.Linear)]


def _timed(weights: list[Tensor], inputs: dict[int, Tensor]) -> Callable[[], float]:
    def run() -> float:
        threads, began = torch.get_num_threads(), time.thread_time()
        torch.set_num_threads(1)
        for weight in weights:
            linear(inputs[weight.shape[1]], weight)
        torch.set_num_threads(threads)
        return 1000 * (time.thread_time() - began)

    return run


def _widened(run: Callable[[], float]) -> Callable[[], float]:
    def widened() -> float:
        with torch.inference_mode(), Float32Linear():
            return run()

    return widened
