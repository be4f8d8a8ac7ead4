"""Every plot of every kind: drawn, the same each time, and fit for a dark page."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import pytest

from sfi_agent.experiments.measure import KINDS
from sfi_agent.experiments.plots import ALT, draw
from sfi_agent.experiments.plots.style import DARK, spread
from sfi_agent.experiments.tables.families import at
from sfi_agent.experiments.tables.markdown import best, table, titled

OWN = {
    "fidelity": {"grid": {"budget": [16, 30]}},
    "support": {"grid": {"budget": [20]}},
    "drafts": {"grid": {"max_draft": [2, 4]}},
    "retrieval": {"grid": {"budget": [16, 30]}, "workloads": ["single_needle"], "context": 300},
}
"""What a page of each kind has that differs from the test's usual page."""


@pytest.fixture(params=sorted(KINDS))
def drawn(request, bench):
    """A run page of each kind, with all its plots."""
    kind = request.param
    bench.write(measure=kind, plots=list(KINDS[kind].plots), compare={}, **OWN[kind])
    return bench.run()


def test_each_kind_runs_and_draws(drawn):
    folder, kind = drawn.document.path.parent, drawn.page.measure
    page = drawn.document.path.read_text()
    for plot in KINDS[kind].plots:
        text = (folder / f"page-{plot}.svg").read_text()
        assert text == draw(plot, drawn.cells())
        assert f"![{ALT[plot]}](page-{plot}.svg)" in page
        assert "prefers-color-scheme: dark" in text
        assert all(f"fill: {light}" in text or f"stroke: {light}" in text for light in DARK)
        assert "<dc:date>" not in text
    assert page.count("\n| ") > 4


def test_a_users_settings_of_matplotlib_change_nothing(drawn):
    kind = drawn.page.measure
    before = draw(KINDS[kind].plots[0], drawn.cells())
    with mpl.rc_context({"font.size": 30, "xtick.major.size": 9, "axes.labelweight": "bold"}):
        assert draw(KINDS[kind].plots[0], drawn.cells()) == before
        assert mpl.rcParams["font.size"] == 30


@pytest.mark.parametrize(
    "places", [[], [0.5], [0.5, 0.5, 0.5], [1.0, 0.99, 0.98], [0.2, 0.9, 0.21], [0.0, 1.0], [1.3, 1.3]]
)
def test_labels_keep_apart_and_in_order(places):
    heights = spread(places, 0.1)
    assert all(above - below >= 0.1 - 1e-9 for below, above in pairwise(sorted(heights)))
    assert all(height <= 1 + 1e-9 for height in heights)
    order = sorted(range(len(places)), key=lambda i: places[i])
    assert [heights[i] for i in order] == sorted(heights)
    if not places or (min(places) >= 0.2 and max(places) <= 0.8 and len(places) == 1):
        assert heights == places


def test_values_between_points():
    curve = [(0.1, 0.8), (0.2, 0.9), (0.2, 0.95), (0.4, 0.96)]
    assert at(curve, 0.15) == pytest.approx(0.85)
    assert at(curve, 0.1) == pytest.approx(0.8)
    assert at(curve, 0.3) == pytest.approx(0.955)
    assert at(curve, 0.4) == pytest.approx(0.96)
    assert at(curve, 0.05) is None
    assert at(curve, 0.5) is None
    assert at([(0.3, 0.7)], 0.3) == 0.7
    assert at([], 0.3) is None


def test_the_best_is_bold_as_it_is_shown():
    assert best([0.1, None, 0.9001, 0.9004]) == ["0.100", "–", "**0.900**", "**0.900**"]
    assert best([0.5]) == ["0.500"]
    assert best([None, None]) == ["–", "–"]


def test_tables():
    assert table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"
    assert titled("t", ["a"], [["x"]] * 8).startswith("**t**")
    assert titled("t", ["a"], [["x"]] * 9).startswith("<details>")
