"""Who hears events: of one runtime, or of every runtime that has a registry."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import pluggy

from sfi_agent import hookspecs
from sfi_agent.details import Detail
from sfi_agent.errors import PluginError, UnknownNameError
from sfi_agent.events import Event
from sfi_agent.hookcheck import check_hooks

log = logging.getLogger(__name__)
NAME_TAKEN = "another plugin has this name already; rename one of them"
FAILURES = 10
"""Events in a row on which an observer may fail before it hears no more."""


@dataclass(frozen=True)
class Problem:
    """A plugin that could not be used, or hears no more events, and why, in one line."""

    plugin: str
    reason: str


class Observers:
    """Plugins that hear events, by the hook ``sfi_on_event``.

    Those of a runtime, ``runtime.observers``, hear that runtime alone; those of a registry,
    ``registry.observers``, hear every runtime that has it. One that raises is logged, and hurts neither the
    turn nor the others; one that raises on ten events in a row hears no more. Safe from threads.

    Args:
        manager: of the plugins; None: a new one.
        above: who is told of each event first.
    """

    def __init__(
        self, manager: pluggy.PluginManager | None = None, *, above: Observers | None = None
    ) -> None:
        self._manager, self._above = manager or plugin_manager(), above
        self._failures: dict[str, int] = {}
        self._silenced: dict[str, Problem] = {}
        self._lock = threading.RLock()  # a stream may be collected, and tell of its end, inside of it

    @property
    def problems(self) -> list[Problem]:
        """Those that hear no more events, each with its ``plugin`` and the ``reason``."""
        return list(self._silenced.values())

    @property
    def wants_details(self) -> bool:
        """Whether some observer wants the events of :mod:`sfi_agent.details`."""
        if self._above and self._above.wants_details:
            return True
        return any(_wants_details(each.plugin) for each in self._hearing())

    def emit(self, event: Event) -> None:
        """Pass an ``event`` to every observer."""
        if self._above:
            self._above.emit(event)
        for each in self._hearing():
            if isinstance(event, Detail) and not _wants_details(each.plugin):
                continue
            try:
                each.function(event=event)
            except Exception as error:
                self._failed(each.plugin_name, event, error)
            else:
                self._failures.pop(each.plugin_name, None)

    def add(self, observer: object) -> None:
        """Have one more ``observer``, a plugin, hear events from now on.

        Raises:
            PluginError: it breaks the contract, or another has its name.
        """
        name = plugin_name(observer)
        try:
            if self._manager.has_plugin(name):
                raise PluginError(NAME_TAKEN)
            check_hooks(observer)
        except (PluginError, UnknownNameError) as error:
            raise PluginError(f"plugin {name!r}: {error}") from None
        self._manager.register(observer, name)

    def remove(self, observer: object) -> None:
        """Have an ``observer`` hear no more events. One that is not there is fine."""
        if name := self._manager.get_name(observer):
            self._manager.unregister(observer)
            with self._lock:
                self._failures.pop(name, None)
                self._silenced.pop(name, None)

    @contextmanager
    def heard_by(self, observer: object) -> Iterator[None]:
        """Have one more ``observer`` hear events, inside a ``with`` block alone."""
        self.add(observer)
        try:
            yield
        finally:
            self.remove(observer)

    def _hearing(self) -> list[pluggy.HookImpl]:
        found = self._manager.hook.sfi_on_event.get_hookimpls()
        return [each for each in found if each.plugin_name not in self._silenced]

    def _failed(self, name: str, event: Event, error: Exception) -> None:
        kind, reason, debugging = type(event).__name__, reason_of(error), log.isEnabledFor(logging.DEBUG)
        log.warning("plugin %r failed on %s: %s", name, kind, reason, exc_info=debugging)
        with self._lock:
            failures = self._failures[name] = self._failures.get(name, 0) + 1
            if failures != FAILURES:
                return
            hears = f"hears no more events: it failed on {FAILURES} in a row, the last with {reason}"
            self._silenced[name] = Problem(name, hears)
        log.error("plugin %r %s", name, hears, exc_info=error)


def reason_of(error: BaseException) -> str:
    """One line for an error of a plugin."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError | UnknownNameError) else f"{type(error).__name__}: {text}"


def plugin_manager() -> pluggy.PluginManager:
    """A manager of plugins that have our hooks."""
    manager = pluggy.PluginManager("sfi_agent")
    manager.add_hookspecs(hookspecs)
    return manager


def plugin_name(plugin: object) -> str:
    """What a plugin that is given as an object or a module is called."""
    if isinstance(plugin, ModuleType):
        return plugin.__name__
    return getattr(plugin, "name", None) or f"{type(plugin).__name__}@{id(plugin):x}"


def _wants_details(plugin: object) -> bool:
    return bool(getattr(plugin, "wants_details", False))
