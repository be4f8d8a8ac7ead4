"""SelectorTests and BoundaryTests catch policies that break their contract."""

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from sfi_agent.contracts import BoundaryDetector, Selection, Selector, top_positions
from sfi_agent.testing import BoundaryTests, SelectorTests


@dataclass
class WrongSelector(Selector):
    """Selects by mean logit, but gets ``wrong`` wrong."""

    wrong: str = ""
    calls: int = 0

    def state(self):
        return {} if self.wrong == "stores nothing" else super().state()

    def restore(self, state):
        if state:
            super().restore(state)

    def refresh(self, evidence, view):
        self.calls += 1
        scores = evidence.logits.mean(-2)
        if self.wrong == "mixes layers":
            scores = scores + scores.roll(1, 0)
        if self.wrong == "random":
            scores = scores + torch.rand_like(scores)
        if self.wrong == "remembers":
            scores = scores if self.calls == 1 else -scores
        if self.wrong == "stores nothing":
            scores = scores if self.calls <= 2 else -scores
        if self.wrong == "writes":
            evidence.logits.zero_()
        positions = top_positions(scores, view.count, view.start).positions
        changes = {
            "unsorted": lambda p: p.flip(-1),
            "twice": lambda p: p[..., :1].expand_as(p),
            "below": lambda p: p - view.start,
            "beyond": lambda p: p + 1,
            "too many": lambda p: torch.arange(view.start, view.stop).expand(*p.shape[:2], -1),
            "unused last": lambda p: torch.cat([p[..., 1:], torch.full_like(p[..., :1], -1)], -1),
            "int32": lambda p: p.int(),
        }
        return Selection(changes.get(self.wrong, lambda p: p)(positions))


SELECTORS = {
    "unsorted": lambda tests: tests.test_selection_is_valid(17, 0.3, 2),
    "twice": lambda tests: tests.test_selection_is_valid(17, 0.3, 2),
    "below": lambda tests: tests.test_selection_is_valid(17, 0.9, 2),
    "beyond": lambda tests: tests.test_everything_is_selected_when_everything_fits(2),
    "unused last": lambda tests: tests.test_selection_is_valid(17, 0.3, 2),
    "too many": lambda tests: tests.test_selection_is_valid(17, 0.3, 2),
    "int32": lambda tests: tests.test_selection_is_valid(17, 0.3, 2),
    "mixes layers": lambda tests: tests.test_layers_in_one_call_or_in_several(),
    "random": lambda tests: tests.test_ties_are_broken_the_same_way_each_time(),
    "remembers": lambda tests: tests.test_reset_makes_it_as_new(),
    "stores nothing": lambda tests: tests.test_stored_and_restored_it_goes_on_as_if_never_stopped(),
    "writes": lambda tests: tests.test_its_input_is_left_alone(),
}


@pytest.mark.parametrize("wrong", SELECTORS)
def test_a_wrong_selector_is_caught(wrong):
    class Tests(SelectorTests):
        def make(self):
            return WrongSelector(self.wrong)

    tests = Tests()
    tests.wrong = ""
    SELECTORS[wrong](tests)
    tests.wrong = wrong
    with pytest.raises(AssertionError):
        SELECTORS[wrong](tests)


class Both(BoundaryDetector):
    def flags(self, vocabulary):
        return np.zeros(len(vocabulary.texts), dtype=np.uint8)

    def observe(self, text):
        return False


class WideFlags(BoundaryDetector):
    def flags(self, vocabulary):
        return np.zeros(len(vocabulary.texts), dtype=np.int64)


class PlaceFlags(BoundaryDetector):
    def flags(self, vocabulary):
        return (np.arange(len(vocabulary.texts)) == 1).astype(np.uint8)


class Forgetful(BoundaryDetector):
    """Misses what is cut in two, keeps its count over a reset."""

    count = 0

    def observe(self, text):
        self.count += 1
        return self.count > 100 or "<tool_call>" in text


class Numbers(BoundaryDetector):
    def observe(self, text):
        return int("<tool_call>" in text)


class Shared(BoundaryDetector):
    seen: list[str] = []  # noqa: RUF012 the mistake that the test is about

    def observe(self, text):
        self.seen.append(text)
        return len(self.seen) % 2 == 0

    def reset(self):
        self.seen.clear()


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Both, "test_it_overrides_exactly_one"),
        (BoundaryDetector, "test_it_overrides_exactly_one"),
        (WideFlags, "test_flags_fit_the_vocabulary"),
        (PlaceFlags, "test_flags_depend_on_the_text_alone"),
        (Numbers, "test_observe_answers_yes_or_no"),
        (Forgetful, "test_reset_makes_it_as_new"),
        (Shared, "test_two_detectors_share_nothing"),
    ],
)
def test_a_wrong_detector_is_caught(kind, test):
    class Tests(BoundaryTests):
        def make(self):
            return kind()

    with pytest.raises(AssertionError):
        getattr(Tests(), test)()


def test_a_detector_that_misses_what_is_cut_is_caught():
    class Misses(BoundaryDetector):
        def observe(self, text):
            return "<tool_call>" in text

    class Tests(BoundaryTests):
        sample = "<tool_call>"

        def make(self):
            return Misses()

    with pytest.raises(AssertionError):  # noqa: PT012 some seed cuts nothing
        for seed in range(20):
            Tests().test_the_cutting_of_text_does_not_matter(seed)


def test_the_conformance_tests_need_no_plugin_and_the_core_no_pytest():
    program = (
        "import sys, sfi_agent.boundaries; core = set(sys.modules); import sfi_agent.testing;"
        "print([m for m in sys.modules if m.startswith(('sfi_plugins', 'sfi_kernels'))], 'pytest' in core)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "False"]
