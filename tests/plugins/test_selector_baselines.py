"""The baselines, on evidence whose right selection is plain to see."""

import pytest
import torch

from sfi_agent.contracts import Evidence, View
from sfi_agent.errors import SettingError
from sfi_agent.registry import Registry
from sfi_plugins.selectors.recent import RecentSelector
from sfi_plugins.selectors.snapkv import SnapKVSelector, pool
from sfi_plugins.selectors.top_mass import TopMassSelector


def case(rows, count):
    """Evidence of one layer and KV head whose probabilities are ``rows``, and its view."""
    probabilities = torch.tensor(rows, dtype=torch.float32)
    candidates = probabilities.shape[-1]
    view = View(4, 4 + candidates, 9 + candidates, count, (0,), [torch.ones(1, candidates, 8)])
    return Evidence(probabilities.log()[None, None], len(rows)), view


def select(selector, rows, count):
    evidence, view = case(rows, count)
    return selector.refresh(evidence, view).positions[0, 0].tolist()


def test_top_mass_takes_the_mean_over_rows():
    rows = [[0.5, 0.1, 0.2, 0.2], [0.05, 0.1, 0.45, 0.4]]
    assert select(TopMassSelector(), rows, 2) == [6, 7]


def test_recent_takes_the_latest_and_reads_nothing():
    assert RecentSelector().rows_wanted() == 0
    evidence, view = case([[0.97, 0.01, 0.01, 0.01]], 2)
    nothing = Evidence(evidence.logits[:, :, :0], 0)
    assert RecentSelector().refresh(nothing, view).positions.tolist() == [[[6, 7]]]


def test_snapkv_takes_neighbours_along():
    rows = [[0.02, 0.02, 0.5, 0.02, 0.02, 0.02, 0.2, 0.2]]
    assert select(SnapKVSelector(kernel=1), rows, 3) == [6, 10, 11]
    assert select(SnapKVSelector(kernel=3), rows, 3) == [5, 6, 7]


@pytest.mark.parametrize(("pooling", "reduce"), [("max", max), ("avg", lambda near: sum(near) / len(near))])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_snapkv_pools_as_a_loop_does(pooling, reduce, kernel):
    mass = torch.rand(2, 3, 11, generator=torch.Generator().manual_seed(0))
    half = kernel // 2
    for got, vector in zip(pool(mass, kernel, pooling).view(6, 11), mass.view(6, 11).tolist(), strict=True):
        expected = [reduce(vector[max(0, i - half) : i + half + 1]) for i in range(11)]
        torch.testing.assert_close(got, torch.tensor(expected))


def test_snapkv_watches_its_window():
    assert SnapKVSelector().rows_wanted() == 16
    assert SnapKVSelector(window=3).rows_wanted() == 3


@pytest.mark.parametrize(
    ("name", "setting", "value", "allowed"),
    [
        ("paper", "captured", 0, "at least 1"),
        ("paper", "window", 0, "at least 1"),
        ("paper", "power", 0.0, "above 0"),
        ("paper", "temperature", -1.0, "above 0"),
        ("paper", "repulsion", float("nan"), "from 0 on"),
        ("paper", "lambda_one", 1.5, r"in \[0, 1\]"),
        ("top_mass", "captured", 0, "at least 1"),
        ("snapkv", "window", 0, "at least 1"),
        ("snapkv", "kernel", 4, "odd"),
        ("snapkv", "pooling", "sum", "'max' or 'avg'"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name, setting, value, allowed):
    with pytest.raises(SettingError, match=allowed) as error:
        Registry().create("selector", name, {setting: value})
    assert setting in str(error.value)
    assert "\n" not in str(error.value)
