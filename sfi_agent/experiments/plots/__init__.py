"""A page's plots, as SVG that is the same on every run and reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence

from sfi_agent.errors import SettingError
from sfi_agent.experiments.experiment import Cell


def draw(name: str, cells: Sequence[Cell]) -> str:
    """A plot of the cells' kind of measurement, as SVG.

    Raises:
        SettingError: matplotlib is not installed.
    """
    try:
        from sfi_agent.experiments.plots import accepted, frontier, retrieval, support
        from sfi_agent.experiments.plots.style import svg
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise SettingError(
            "plots need matplotlib: pip install 'sfi-agent[docs]', then `sfi-agent experiment render PAGE`"
        ) from None
    drawn = {
        "frontier": frontier.frontier,
        "slow-rate": frontier.slow_rate,
        "support": support.support,
        "layers": support.layers,
        "accepted": accepted.accepted,
        "speed": accepted.speed,
        "scores": retrieval.scores,
    }
    return svg(drawn[name], cells)


ALT = {
    "frontier": "Agreement with dense attention against the share of its KV bytes that each policy reads",
    "slow-rate": "Agreement with dense attention against the share of steps that are slow",
    "support": "Attention mass that stays on an earlier token's support, against the distance in tokens",
    "layers": "Attention mass that stays on an earlier token's support, layer by layer",
    "accepted": "Share of drafts of which at least so many tokens were accepted",
    "scores": "Share of the answers found, against the share of dense attention's KV bytes read",
    "speed": "Tokens a dense pass yields, against the share of dense attention's KV bytes read",
}
"""What each plot shows, for those who do not see it."""
