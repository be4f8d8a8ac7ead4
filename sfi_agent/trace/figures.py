"""The charts of the page, empty: the page fills them. The only file that knows Bokeh."""

from __future__ import annotations

from typing import Any

import numpy as np

from sfi_agent.errors import SettingError

try:
    from bokeh.core.types import ID
    from bokeh.embed import json_item
    from bokeh.models import (
        ColumnDataSource,
        FixedTicker,
        InlineStyleSheet,
        LinearColorMapper,
        NumeralTickFormatter,
        Range1d,
        Segment,
    )
    from bokeh.models.annotations import Span
    from bokeh.plotting import figure
    from bokeh.resources import Resources
except ModuleNotFoundError as error:
    raise SettingError("the page of a trace needs bokeh: pip install 'sfi-agent[eye]'") from error

COLOURS = 16
"""Of an image: levels 0 to 15."""
LEFT = 68
"""Pixels left of every chart, so that they stand below each other."""
TOUCH = ".bk-events { touch-action: pan-y !important; }"
"""A finger on a chart scrolls the page."""


def library() -> str:
    """BokehJS, as it travels in the page."""
    return "\n".join(Resources(mode="inline", components=["bokeh"], log_level="error").js_raw)


def charts() -> list[dict[str, Any]]:
    """What BokehJS draws, each in the element of its name."""
    made = {
        "strip": _image("strip", 300, "position in the context", "layers"),
        "history": _image("history", 260, "position in the context", "step"),
        "seconds": _points("seconds", 150, "milliseconds"),
        "bytes": _points("bytes", 150, "% of dense"),
        "agreement": _points("agreement", 150, "% accepted"),
    }
    return [dict(json_item(plot, ID(name))) for name, plot in made.items()]


def _plot(name: str, height: int, across: str, up: str) -> Any:
    plot = figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        x_axis_label=across,
        y_axis_label=up,
        min_border_left=LEFT,
        min_border_right=12,
        min_border_top=6,
        border_fill_color=None,  # the page shows; a colour would stay at the edge when the theme changes
        stylesheets=[InlineStyleSheet(css=TOUCH)],
    )
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    plot.yaxis.formatter = NumeralTickFormatter(format="0,0")
    for axis in (plot.xaxis, plot.yaxis):
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "11px"
        axis.minor_tick_line_color = None
    plot.xgrid.visible = False
    plot.add_layout(Span(name=f"{name}-at", dimension="height", location=0, line_width=1, visible=False))
    return plot


def _image(name: str, height: int, across: str, up: str) -> Any:
    """A chart of one image; ``-prompt`` marks where the prompt ends."""
    plot = _plot(name, height, across, up)
    empty = {"image": [np.zeros((1, 1), np.uint8)], "x": [0], "y": [0], "dw": [1], "dh": [1]}
    source = ColumnDataSource(data=empty, name=f"{name}-data")
    mapper = LinearColorMapper(palette=["#000000"] * COLOURS, low=0, high=COLOURS, name=f"{name}-colours")
    plot.image("image", x="x", y="y", dw="dw", dh="dh", color_mapper=mapper, source=source)
    plot.ygrid.visible = name == "strip"
    plot.add_layout(Span(name=f"{name}-prompt", dimension="height", location=0, line_dash="dotted"))
    if name == "strip":
        plot.yaxis.ticker = FixedTicker(ticks=[])
        plot.ygrid.ticker = FixedTicker(ticks=[], name="strip-groups")
    else:
        plot.select_one({"name": "history-at"}).dimension = "width"
        slow = ColumnDataSource(data={"stop": [], "y": []}, name="history-slow")
        line = Segment(x0=0, x1="stop", y0="y", y1="y", line_alpha=0.7, name="history-lines")
        plot.add_glyph(slow, line)
    return plot


def _points(name: str, height: int, up: str) -> Any:
    """A chart with a point a step, coloured by kind."""
    plot = _plot(name, height, "step", up)
    source = ColumnDataSource(data={"x": [], "y": [], "colour": [], "marker": []}, name=f"{name}-data")
    plot.scatter("x", "y", marker="marker", color="colour", size=5, alpha=0.8, source=source)
    return plot
