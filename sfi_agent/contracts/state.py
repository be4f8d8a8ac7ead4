"""What a plugin's object keeps between turns, in a form that a session on disk can hold."""

from __future__ import annotations

import dataclasses
from typing import Any

State = dict[str, Any]
"""Names and values, each a tensor (dense, of numbers), None, a bool, int, float or string, or a list,
tuple or dictionary (keyed by strings or integers) of such values."""


class Stateful:
    """An object whose state can be taken out and put into a new one made with the same settings.

    What is here serves every object whose attributes are of the kinds that :data:`State` names. Any
    other overrides both methods; where it does not, what it kept cannot be stored, and the session says
    so when it is loaded (:class:`sfi_agent.events.SessionLoaded`).
    """

    def state(self) -> State:
        """What ``restore`` needs so that a new object goes on as this one would; copied by the caller.

        Here: every attribute, settings included, for some object may change them as it goes.
        """
        return dict(vars(self))

    def restore(self, state: State) -> None:
        """Go on from what ``state`` returned; called once, on an object just made.

        Args:
            state: its tensors where the session's keys are.

        Raises:
            ValueError: it lacks something that this object keeps (another version wrote it).
        """
        if missing := sorted(self.state().keys() - state.keys() - _settings(self)):
            raise ValueError(f"the stored state has no {', '.join(missing)}")
        vars(self).update(state)


def _settings(thing: object) -> frozenset[str]:
    """The fields of a dataclass that can be given when it is made: a later version may have more."""
    if not dataclasses.is_dataclass(thing):
        return frozenset()
    return frozenset(field.name for field in dataclasses.fields(thing) if field.init)
