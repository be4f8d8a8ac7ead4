"""A page's plots, as SVG that is the same on every run and reads on light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence

from sfi_agent.errors import SettingError, UnknownNameError
from sfi_agent.experiments.experiment import Cell

PLOTS: dict[str, tuple[str, ...]] = {
    "fidelity": ("frontier", "slow-rate"),
    "support": ("support", "layers"),
    "drafts": ("accepted", "speed"),
}
"""Names by kind of measurement."""


def check_names(kind: str, names: Sequence[str]) -> None:
    """Raise UnknownNameError for a plot that the kind does not have; lists those it has."""
    for name in names:
        if name not in PLOTS[kind]:
            raise UnknownNameError(f"plot of {kind}", name, PLOTS[kind])


def draw(kind: str, name: str, cells: Sequence[Cell]) -> str:
    """The plot as SVG.

    Raises:
        SettingError: matplotlib is not installed.
    """
    try:
        from sfi_agent.experiments.plots import accepted, frontier, support
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
    }
    return svg(drawn[name], cells)


ALT = {
    "frontier": "Agreement with dense attention against the share of its KV bytes that each policy reads",
    "slow-rate": "Agreement with dense attention against the share of steps that are slow",
    "support": "Attention mass that stays on an earlier token's support, against the distance in tokens",
    "layers": "Attention mass that stays on an earlier token's support, layer by layer",
    "accepted": "Share of drafts of which at least so many tokens were accepted",
    "speed": "Tokens a dense pass yields, against the share of dense attention's KV bytes read",
}
"""What each plot shows, for those who do not see it."""
