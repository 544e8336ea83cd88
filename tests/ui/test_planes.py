"""Figures cut no point: the square of the world grows for them, and logarithmic axes leave room."""

import json

import numpy as np
import pytest

from pages._planes import VIEW, WIDEST_VIEW, heat, plane, scatter
from pages._plots import log_axis


def layout_of(*points: tuple[float, float]) -> dict:
    shade = heat(np.eye(4), VIEW)
    dots = scatter(np.array(points), "#000000", mode="markers")
    return json.loads(plane([shade, dots], "x", "y").plot)["layout"]


def test_the_square_of_the_world_stays_where_all_points_lie_inside():
    assert layout_of((0, 0), (2.5, -2.8))["xaxis"]["range"] == [-VIEW, VIEW]


@pytest.mark.parametrize("point", [(4.2, 0), (0, -4.2)])
def test_both_axes_grow_for_a_point_outside(point: tuple[float, float]):
    layout = layout_of((0, 0), point)
    low, high = layout["xaxis"]["range"]
    assert layout["yaxis"]["range"] == [low, high]
    assert low < -4.2 < 4.2 < high
    assert "annotations" not in layout


def test_points_that_no_square_holds_are_told_on_the_figure():
    layout = layout_of((0, 0), (1000, 0), (0, 30))
    assert layout["xaxis"]["range"] == [-WIDEST_VIEW, WIDEST_VIEW]
    assert layout["annotations"][0]["text"] == "2 points lie outside"


def test_a_gap_in_a_line_is_no_point():
    assert layout_of((0, 0), (float("nan"), float("nan")))["xaxis"]["range"] == [-VIEW, VIEW]


@pytest.mark.parametrize("values", [(1e-6, 1.0), (0.9, 1.0)])
def test_a_logarithmic_axis_leaves_room_for_half_a_mark_at_its_ends(values: tuple[float, ...]):
    low, high = log_axis(values)["range"]
    share = (np.log10(min(values)) - low) / (high - low)
    assert share * 300 >= 4  # a figure is at least so many pixels wide, a mark 8
