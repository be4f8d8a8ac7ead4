"""Kind ``support``: do the positions that attention needs stay the same from token to token?

The claim of Slow-Fast Inference (arXiv 2603.12038): within a sentence they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sfi_agent.contracts import top_positions
from sfi_agent.errors import SettingError
from sfi_agent.evaluate.teacher import Reader
from sfi_agent.experiments.grid import Case
from sfi_agent.experiments.measure.attention import candidate_mass
from sfi_agent.experiments.measure.base import Measurement, Reading
from sfi_agent.experiments.measure.sentences import sentence_numbers
from sfi_agent.policy import Policy
from sfi_agent.progress import Progress
from sfi_agent.runtime.layout import Layout
from sfi_agent.runtime.queries import RecentQueries
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.runtime import Runtime

DISTANCES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)

Curves = tuple[tuple[float | None, ...], ...]
"""``[layers][distances]``, None where there is no pair."""


@dataclass(frozen=True)
class Support:
    """How much of the support of one token is the support of a later one.

    The support of a token, in one layer and KV head, is the ``count`` candidates that its queries give
    the most attention (softmax over everything visible, mean over the group's query heads). Candidates
    are the context's positions between sink and recent, the same for every token.

    Attributes:
        layers: indices of the full-attention layers.
        distances: tokens from the earlier to the later one.
        pairs_within, pairs_across: pairs at each distance with no boundary between them, and with one.
        mass_within, mass_across: attention mass that the later token puts on the earlier one's support,
            over that which it puts on its own; summed over pairs and heads before dividing.
        kept_within, kept_across: share of the support's positions that both have, mean over pairs and heads.
        candidate_mass: for each layer, the share of attention that falls on candidates.
        support_mass: for each layer, the share of ``candidate_mass`` that a token's own support holds.
        count, candidates: positions in a support, and to choose from; their ratio is what ``kept`` would
            be by chance.
        boundaries: among the tokens measured.
    """

    layers: tuple[int, ...]
    distances: tuple[int, ...]
    pairs_within: tuple[int, ...]
    pairs_across: tuple[int, ...]
    mass_within: Curves
    mass_across: Curves
    kept_within: Curves
    kept_across: Curves
    candidate_mass: tuple[float, ...]
    support_mass: tuple[float, ...]
    count: int
    candidates: int
    boundaries: int


class SupportMeasurement(Measurement[Row, Support]):
    """Of a policy it takes the boundary detectors (gap and interval aside), budget, sink and recent."""

    kind: ClassVar[str] = "support"
    version: ClassVar[int] = 1
    result: ClassVar[type[Support]] = Support
    plots: ClassVar[tuple[str, ...]] = ("support", "layers")

    def prepare(self, runtime: Runtime, reading: Reading, on_progress: Progress) -> Row:
        """Read everything densely, and keep the queries of the tokens behind the context."""
        kernel, chunk = runtime.parts(Policy()).kernel, Policy().prefill_chunk
        reader = Reader(runtime, kernel, Row(queries=RecentQueries(reading.decode)))
        for start in range(0, len(reading.tokens), chunk):
            reader.read(reading.tokens[start : start + chunk])
            on_progress(min(start + chunk, len(reading.tokens)), len(reading.tokens))
        return reader.row

    def measure(
        self, runtime: Runtime, reading: Reading, case: Case, shared: Row, on_progress: Progress
    ) -> Support:
        layout = _layout(case.policy, reading)
        sentences = torch.tensor(sentence_numbers(runtime, case.policy, reading.tokens)[reading.context :])
        distances = [d for d in DISTANCES if d < reading.decode]
        layers = [index for index, store in shared.kv.layers.items() if store.spec.window is None]
        tallies = []
        for done, layer in enumerate(sorted(layers)):
            tallies.append(_tally(shared, layer, layout, sentences, distances))
            on_progress(done + 1, len(layers))
        return _summary(sorted(layers), distances, sentences, layout, torch.stack(tallies))


def _layout(policy: Policy, reading: Reading) -> Layout:
    layout = Layout.of(policy.but(dense_below=0), reading.context)
    if layout is None or layout.count < 1:
        raise SettingError(
            f"budget {policy.budget} at a context of {reading.context} tokens leaves no positions to select, "
            "or none out; set a budget below 1 that exceeds sink and recent"
        )
    return layout


def _tally(row: Row, layer: int, layout: Layout, sentences: Tensor, distances: list[int]) -> Tensor:
    """``[2 (within, across), distances + 1, 3]`` float64: mass kept, own mass, share of positions kept.

    Sums over pairs and heads; the last row of ``distances`` has the layer's totals instead: mass on all
    candidates, mass on the supports, tokens x heads.
    """
    store, length = row.kv.layers[layer], row.kv.length
    positions = row.queries.latest(length, len(sentences))
    queries = row.queries.gather(layer, positions)
    group = queries.shape[1] // store.kv_heads
    found = torch.zeros(2, len(distances) + 1, 3, dtype=torch.float64)
    same = sentences.to(queries.device)
    for head in range(store.kv_heads):
        heads = slice(head * group, (head + 1) * group)
        mass = candidate_mass(queries[:, heads], store, head, heads, length, layout)
        support = top_positions(mass, layout.count, 0).positions
        own = mass.gather(1, support).sum(1)
        for i, distance in enumerate(distances):
            found[:, i] += _kept(mass, support, own, same, distance)
        found[0, -1] += torch.stack([mass.sum(), own.sum(), own.new_tensor(len(own))]).double().cpu()
    return found


def _kept(mass: Tensor, support: Tensor, own: Tensor, sentences: Tensor, distance: int) -> Tensor:
    """``[2, 3]`` float64: the sums of :func:`_tally` at one distance, for one head.

    Args:
        mass: ``[T, P]`` attention on the candidates.
        support: ``[T, count]`` indices into P.
        own: ``[T]`` mass on a token's own support.
        sentences: ``[T]`` number of each token's sentence.
        distance: tokens between the two of a pair.
    """
    earlier, later = support[:-distance], mass[distance:]
    kept = later.gather(1, earlier).sum(1)
    member = torch.zeros_like(later, dtype=torch.bool).scatter_(1, support[distance:], True)
    share = member.gather(1, earlier).float().mean(1)
    within = (sentences[distance:] == sentences[:-distance]).double()
    sums = torch.stack([kept, own[distance:], share], dim=1).double()
    return torch.stack([within @ sums, (1 - within) @ sums]).cpu()


def _summary(
    layers: list[int], distances: list[int], sentences: Tensor, layout: Layout, tallies: Tensor
) -> Support:
    """From sums ``[layers, 2, distances + 1, 3]`` to shares."""
    within = [int((sentences[d:] == sentences[:-d]).sum()) for d in distances]
    across = [len(sentences) - d - n for d, n in zip(distances, within, strict=True)]
    totals, sums = tallies[:, 0, -1], tallies[:, :, :-1]
    heads = totals[:, 2:] / len(sentences)
    mass = sums[..., 0] / sums[..., 1]
    kept = sums[..., 2] / (heads[:, None] * torch.tensor([within, across]))
    return Support(
        layers=tuple(layers),
        distances=tuple(distances),
        pairs_within=tuple(within),
        pairs_across=tuple(across),
        mass_within=_curves(mass[:, 0], within),
        mass_across=_curves(mass[:, 1], across),
        kept_within=_curves(kept[:, 0], within),
        kept_across=_curves(kept[:, 1], across),
        candidate_mass=tuple((totals[:, 0] / totals[:, 2]).tolist()),
        support_mass=tuple((totals[:, 1] / totals[:, 0]).tolist()),
        count=layout.count,
        candidates=layout.tail - layout.sink,
        boundaries=int(sentences[-1] - sentences[0]),
    )


def _curves(shares: Tensor, pairs: list[int]) -> Curves:
    return tuple(
        tuple(share if n else None for share, n in zip(layer, pairs, strict=True))
        for layer in shares.tolist()
    )
