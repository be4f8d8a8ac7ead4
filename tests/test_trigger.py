"""The trigger: detectors together, gap and interval, armed state, compiling once."""

import copy
import re
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from sfi_agent.boundaries import Trigger
from sfi_agent.contracts import BoundaryDetector, TokenFlag
from sfi_agent.errors import PluginError
from sfi_agent.testing import TextVocabulary

NONE, FIRE, ARM, HOLD, ARM_FIRE = range(5)
VOCABULARY = ["none", "fire", "arm", "hold", "arm and fire"]


@dataclass
class Flags(BoundaryDetector):
    table: list[int] = field(default_factory=lambda: [0, 1, 2, 4, 3])

    def flags(self, vocabulary):
        return np.array(self.table, dtype=np.uint8)


@dataclass
class Words(BoundaryDetector):
    word: str = "go"
    seen: list[str] = field(default_factory=list, init=False)

    def observe(self, text):
        self.seen.append(text)
        return text == self.word

    def reset(self):
        self.seen.clear()


def trigger(*detectors, min_gap=0, max_interval=1000):
    vocabulary = TextVocabulary(VOCABULARY)
    return Trigger(detectors or (Flags(),), vocabulary, min_gap=min_gap, max_interval=max_interval)


def run(trigger, tokens):
    """Where a slow step came, when each one asked for is taken."""
    slow = []
    for place, token in enumerate(tokens):
        if trigger.observe(token):
            slow.append(place)
            trigger.slow_step_done()
    return slow


@pytest.mark.parametrize(
    ("tokens", "slow"),
    [
        ([NONE, FIRE, NONE, FIRE, FIRE], [1, 3, 4]),
        ([ARM, NONE, NONE], [1]),
        ([ARM, HOLD, HOLD, NONE, NONE], [3]),
        ([ARM, ARM, NONE], [2]),
        ([HOLD, NONE, HOLD], []),
        ([ARM, HOLD, FIRE, NONE], [2]),
        ([ARM_FIRE, HOLD, NONE, NONE], [0, 2]),
    ],
)
def test_flags(tokens, slow):
    assert run(trigger(), tokens) == slow


@pytest.mark.parametrize(("min_gap", "slow"), [(0, [0, 1, 2, 3, 4, 5]), (1, [1, 3, 5]), (2, [2, 5]), (6, [])])
def test_boundaries_within_the_gap_are_dropped(min_gap, slow):
    assert run(trigger(min_gap=min_gap), [FIRE] * 6) == slow


def test_a_dropped_boundary_does_not_come_later():
    assert run(trigger(min_gap=2), [ARM, NONE, NONE, NONE, NONE]) == []


@pytest.mark.parametrize(("max_interval", "slow"), [(1, [1, 3, 5]), (2, [2, 5]), (5, [5]), (6, [])])
def test_a_slow_step_comes_after_the_interval(max_interval, slow):
    assert run(trigger(max_interval=max_interval), [NONE] * 6) == slow


def test_the_interval_outranks_the_gap():
    assert run(trigger(min_gap=100, max_interval=3), [NONE] * 8) == [3, 7]


def test_the_interval_counts_from_any_slow_step():
    one = trigger(max_interval=3)
    assert [one.observe(NONE) for _ in range(3)] == [False] * 3
    one.slow_step_done()
    assert [one.observe(NONE) for _ in range(4)] == [False, False, False, True]


def test_a_slow_step_not_taken_stays_due():
    one = trigger(max_interval=2)
    assert [one.observe(NONE) for _ in range(4)] == [False, False, True, True]


def test_a_slow_step_leaves_a_detector_armed():
    one = trigger()
    one.observe(ARM)
    one.slow_step_done()
    assert one.observe(NONE)


def test_reset_forgets_everything():
    words = Words()
    one = trigger(Flags(), words, max_interval=2)
    one.observe(NONE, "a")
    one.observe(ARM, "b")
    one.reset()
    assert words.seen == []
    assert [one.observe(NONE) for _ in range(3)] == [False, False, True]


def test_each_detector_keeps_its_own_armed_state():
    other = Flags([4, 0, 0, 2, 0])  # holds on NONE, arms on HOLD
    assert run(trigger(Flags(), other), [HOLD, ARM, NONE, NONE]) == [1, 2]


def test_every_detector_sees_every_token():
    words = Words(), Words()
    one = trigger(Flags(), *words)
    for token, text in [(FIRE, "go"), (NONE, "go"), (NONE, "")]:
        one.observe(token, text)
    assert [each.seen for each in words] == [["go", "go", ""]] * 2


def test_text_fires():
    one = trigger(Words())
    assert [one.observe(NONE, text) for text in ("stay", "go")] == [False, True]


def test_it_says_whether_it_needs_text():
    assert not trigger(Flags()).needs_text
    assert trigger(Flags(), Words()).needs_text
    assert not Trigger([], TextVocabulary([]), min_gap=0, max_interval=1).needs_text

    class Counts(Words):
        reads_text = False

    assert not trigger(Counts()).needs_text
    assert trigger(Counts(), Words()).needs_text


def test_an_id_beyond_the_vocabulary_is_a_plain_token():
    one = trigger()
    one.observe(ARM)
    assert one.observe(len(VOCABULARY) + 100)


def test_a_copy_goes_its_own_way():
    one = trigger()
    one.observe(ARM)
    other = copy.deepcopy(one)
    assert one.observe(NONE)
    assert other.observe(NONE)


def test_compiling_happens_once_for_each_vocabulary_and_setting():
    compiled = []

    @dataclass
    class Counted(Flags):
        def flags(self, vocabulary):
            compiled.append((vocabulary, self.table))
            return super().flags(vocabulary)

    def make(vocabulary, table):
        return Trigger([Counted(table)], vocabulary, min_gap=0, max_interval=9)

    first, second = TextVocabulary(VOCABULARY), TextVocabulary(VOCABULARY)
    for vocabulary in (first, second, first):
        for table in ([0, 1, 2, 4, 3], [1, 1, 1, 1, 1], [0, 1, 2, 4, 3]):
            fires = make(vocabulary, table).observe(NONE)
            assert fires == (table[0] == 1)
    assert len(compiled) == 4


@pytest.mark.parametrize(
    "flags",
    [np.zeros(3, dtype=np.uint8), np.zeros(5, dtype=np.int64), np.zeros((5, 1), dtype=np.uint8), [0] * 5],
)
def test_flags_that_do_not_fit_are_refused(flags):
    class Broken(BoundaryDetector):
        def flags(self, vocabulary):
            return flags

    with pytest.raises(PluginError, match=r"flags of Broken must be a uint8 array of shape \(5,\)"):
        trigger(Broken())


@pytest.mark.parametrize(
    ("watches", "lacks"),
    [(False, "has neither flags nor observe nor watch; override one"), (True, "watches, but has no watch")],
)
def test_a_detector_that_overrides_nothing_is_named(watches, lacks):
    empty = type("Empty", (BoundaryDetector,), {"watches": watches})
    with pytest.raises(PluginError, match=f"detector Empty {lacks}"):
        trigger(empty())


def test_a_watch_that_nobody_asks_is_named():
    watching = type("Watching", (BoundaryDetector,), {"watch": lambda self, logits: False})
    with pytest.raises(PluginError, match="Watching has a watch that nobody asks; set watches = True"):
        trigger(watching())


def test_an_error_says_whose_it_is():
    class Failing(Every):
        def observe(self, text):
            raise ZeroDivisionError

    names = ["flags", "every", "failing"]
    detectors = [Flags(), Every(), Failing()]
    asked = Trigger(detectors, TextVocabulary(VOCABULARY), min_gap=0, max_interval=100, names=names)
    with pytest.raises(ZeroDivisionError) as found:
        asked.observe(NONE, "a")
    assert found.value.__notes__ == ["raised by boundary 'failing'"]


@pytest.mark.parametrize("answer", ["no", None, 1, np.True_, torch.tensor(False)], ids=repr)
@pytest.mark.parametrize("method", ["observe", "watch"])
def test_an_answer_that_is_no_bool_is_refused(method, answer):
    attributes = {method: lambda self, seen: answer, "watches": method == "watch"}
    one = trigger(Flags(), type("Vague", (BoundaryDetector,), attributes)())
    said = re.escape(f"{method} of Vague must return a Python bool (given {answer!r})")
    with pytest.raises(PluginError, match=said) as found:
        one.observe(NONE, "a", torch.zeros(len(VOCABULARY)))
    assert found.value.__notes__ == ["raised by boundary 'Vague'"]


def test_flag_values():
    assert [int(flag) for flag in (TokenFlag.NONE, TokenFlag.FIRE, TokenFlag.ARM, TokenFlag.HOLD)] == [
        0,
        1,
        2,
        4,
    ]


@dataclass
class Every(BoundaryDetector):
    every: int = 3
    seen: int = field(default=0, init=False)

    def observe(self, text):
        self.seen += 1
        return self.seen % self.every == 0

    def due(self):
        return (self.seen + 1) % self.every == 0


@pytest.mark.parametrize(("min_gap", "max_interval"), [(0, 1000), (4, 1000), (0, 2), (5, 6)])
def test_what_is_due_comes_whatever_the_token_is(min_gap, max_interval):
    made, known = trigger(Every(), min_gap=min_gap, max_interval=max_interval), 0
    for _ in range(60):
        due = made.due
        assert made.fork().observe(NONE) == due
        known += due
        if made.observe(FIRE):
            made.slow_step_done()
    assert known > 5


def test_a_detector_that_looks_tokens_up_cannot_tell():
    made = trigger(Flags(), Words())
    made.observe(ARM)
    assert not made.due
