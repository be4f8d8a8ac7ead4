"""Entropy that rises calls for a slow step; entropy that stays high does not."""

import math

import pytest
import torch

from sfi_agent import Registry
from sfi_agent.errors import SettingError
from sfi_plugins.boundaries.drift import DriftDetector, entropy

SURE, OPEN = torch.tensor([9.0, *[0.0] * 99]), torch.zeros(100)


def test_entropy_is_in_nats():
    assert entropy(OPEN) == pytest.approx(math.log(100))
    assert entropy(torch.tensor([0.0, float("-inf")])) == 0


def test_it_fires_where_doubt_begins_and_not_while_it_lasts():
    detector = DriftDetector(excess=1.0, memory=0.5)
    assert [detector.watch(logits) for logits in (OPEN, OPEN, SURE, SURE, SURE, SURE)] == [False] * 6
    assert [detector.watch(OPEN) for _ in range(6)] == [True, True, True, False, False, False]


@pytest.mark.parametrize("settings", [{"excess": -1}, {"memory": 1}, {"memory": -0.1}])
def test_settings_that_make_no_sense(settings):
    with pytest.raises(SettingError):
        Registry().create("boundary", "drift", settings)
