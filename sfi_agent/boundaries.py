"""When a turn's next step is slow: boundary detectors, a minimum gap and a maximum interval."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from sfi_agent.contracts import BoundaryDetector, TokenFlag, Vocabulary
from sfi_agent.errors import PluginError

FIRE, ARM, HOLD = int(TokenFlag.FIRE), int(TokenFlag.ARM), int(TokenFlag.HOLD)


class Trigger:
    """Decides, token by token, whether the step that reads the token is slow.

    Args:
        detectors: any of which may call for a slow step.
        vocabulary: of the tokens to come.
        min_gap: fast steps since the last slow one below which a boundary is dropped.
        max_interval: fast steps since the last slow one from which on a slow step comes in any case.
        names: of the detectors, for ``cause``; default their classes'.

    Attributes:
        cause: which detectors, or ``max_interval``, called for a slow step when it was last called for.

    Raises:
        PluginError: a detector's flags do not fit the vocabulary, or it has neither flags nor what is asked.
    """

    def __init__(
        self,
        detectors: Sequence[BoundaryDetector],
        vocabulary: Vocabulary,
        *,
        min_gap: int,
        max_interval: int,
        names: Sequence[str] | None = None,
    ) -> None:
        self.min_gap = min_gap
        self.max_interval = max_interval
        self.cause = ""
        self._lookups: list[_Lookup] = []
        self._observers: list[BoundaryDetector] = []
        self._watchers: list[BoundaryDetector] = []
        for detector in detectors:
            if detector.watches:
                self._watchers.append(_overriding("watch", detector))
            elif (table := compiled(detector, vocabulary)) is None:
                self._observers.append(_overriding("observe", detector))
            else:
                self._lookups.append(_Lookup(table))
        self._names = _ordered(detectors, names, self._observers, self._watchers)
        self._fast_steps = 0

    @property
    def needs_text(self) -> bool:
        """Whether some detector reads text; if not, ``observe`` may be called without it."""
        return any(detector.reads_text for detector in self._observers)

    @property
    def needs_logits(self) -> bool:
        """Whether some detector watches logits, so that what it says depends on the model."""
        return bool(self._watchers)

    def observe(self, token: int, text: str = "", logits: Tensor | None = None) -> bool:
        """Whether the step that reads ``token`` should be slow; called once for each token produced.

        Args:
            token: its id.
            text: what it added to the text, as for ``BoundaryDetector.observe``.
            logits: ``[vocabulary]`` that gave it, as for ``BoundaryDetector.watch``; None where nothing
                did (a token of the prompt), and then no detector watches.

        The step counts as fast until :meth:`slow_step_done` says otherwise.

        Raises:
            PluginError: a detector's answer is no bool.
        """
        # Lists, because every detector must see every token, whichever fires first.
        fired = [lookup.observe(token) for lookup in self._lookups]
        try:
            for detector in self._observers:
                fired.append(_answer(detector.observe(text), "observe", detector))
            if logits is not None:
                for detector in self._watchers:
                    fired.append(_answer(detector.watch(logits), "watch", detector))
        except Exception as error:
            error.add_note(f"raised by boundary {self._names[len(fired)]!r}")
            raise
        steps, self._fast_steps = self._fast_steps, self._fast_steps + 1
        if any(fired) and steps >= self.min_gap:
            self.cause = ", ".join(name for name, each in zip(self._names, fired, strict=False) if each)
            return True
        if steps >= self.max_interval:
            self.cause = "max_interval"
            return True
        return False

    @property
    def due(self) -> bool:
        """Whether the step that reads the next token will be slow, whatever that is."""
        asked = (*self._observers, *self._watchers)
        steps = self._fast_steps
        return steps >= self.max_interval or (steps >= self.min_gap and any(each.due() for each in asked))

    def slow_step_done(self) -> None:
        """A slow step ran, whatever called for it: gap and interval count from here."""
        self._fast_steps = 0

    def fork(self) -> Trigger:
        """A copy that goes its own way, to try tokens that may be taken back."""
        other = copy.copy(self)
        other._lookups = [dataclasses.replace(lookup) for lookup in self._lookups]
        other._observers = copy.deepcopy(self._observers)
        other._watchers = copy.deepcopy(self._watchers)
        return other

    def reset(self) -> None:
        """Forget every token observed."""
        self._fast_steps = 0
        for lookup in self._lookups:
            lookup.armed = False
        for detector in (*self._observers, *self._watchers):
            detector.reset()


def _answer(answer: Any, method: str, detector: BoundaryDetector) -> bool:
    """What a detector said. "no" would fire, and what only looks like a bool may wait for a GPU."""
    if not isinstance(answer, bool):
        given = " ".join(repr(answer).split())[:40]
        raise PluginError(f"{method} of {type(detector).__name__} must return a Python bool (given {given})")
    return answer


def _overriding(method: str, detector: BoundaryDetector) -> BoundaryDetector:
    """The detector, which has such a method of its own."""
    kind = type(detector)
    if getattr(kind, method) is getattr(BoundaryDetector, method):
        lacks = "watches, but has no watch; override it"
        if method == "observe":
            lacks = "has neither flags nor observe nor watch; override one of them"
            if kind.watch is not BoundaryDetector.watch:
                lacks = "has a watch that nobody asks; set watches = True"
        raise PluginError(f"detector {kind.__name__} {lacks}")
    return detector


def _ordered(
    detectors: Sequence[BoundaryDetector],
    names: Sequence[str] | None,
    observers: Sequence[BoundaryDetector],
    watchers: Sequence[BoundaryDetector],
) -> list[str]:
    """The detectors' names as ``observe`` asks them: those looked up first, then observers, then watchers."""
    named = [*zip(detectors, names or [type(each).__name__ for each in detectors], strict=True)]
    rank = {id(each): place for place, kind in enumerate((observers, watchers), start=1) for each in kind}
    return [name for _, name in sorted(named, key=lambda pair: rank.get(id(pair[0]), 0))]


@dataclasses.dataclass
class _Lookup:
    """One compiled detector: a flag for each token id, and whether it is armed."""

    table: bytes
    armed: bool = False

    def observe(self, token: int) -> bool:
        flag = self.table[token] if token < len(self.table) else 0
        fired = bool(flag & FIRE) or (self.armed and not flag & (ARM | HOLD))
        self.armed = bool(flag & ARM) or (self.armed and bool(flag & HOLD))
        return fired


def compiled(detector: BoundaryDetector, vocabulary: Vocabulary) -> bytes | None:
    """One flag byte for each token id, or None for a detector that reads text.

    Compiled once for each vocabulary object and setting of the detector, and kept with the
    vocabulary. A detector that is no dataclass has no settings to go by and is compiled anew.

    Raises:
        PluginError: the flags are not one uint8 for each entry of the vocabulary.
    """
    if not dataclasses.is_dataclass(detector):
        return _checked(detector, vocabulary)
    cache: dict[Any, bytes | None] = vars(vocabulary).setdefault("_compiled_boundaries", {})
    fields = (field.name for field in dataclasses.fields(detector) if field.init)
    key = (type(detector), tuple((name, repr(getattr(detector, name))) for name in fields))
    if key not in cache:
        cache[key] = _checked(detector, vocabulary)
    return cache[key]


def _checked(detector: BoundaryDetector, vocabulary: Vocabulary) -> bytes | None:
    flags = detector.flags(vocabulary)
    if flags is None:
        return None
    expected = len(vocabulary.texts)
    if not isinstance(flags, np.ndarray) or flags.dtype != np.uint8 or flags.shape != (expected,):
        given = f"{flags.dtype} {flags.shape}" if isinstance(flags, np.ndarray) else type(flags).__name__
        raise PluginError(
            f"flags of {type(detector).__name__} must be a uint8 array of shape ({expected},), "
            f"one TokenFlag for each vocabulary entry (given {given})"
        )
    return flags.tobytes()
