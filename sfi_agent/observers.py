"""Who hears events: of one runtime, or of every runtime that has a registry."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import ModuleType

import pluggy

from sfi_agent import hookspecs
from sfi_agent.details import Detail
from sfi_agent.errors import PluginError, UnknownNameError
from sfi_agent.events import Event
from sfi_agent.hookcheck import check_hooks

log = logging.getLogger(__name__)


class Observers:
    """Plugins that hear events, by the hook ``sfi_on_event``.

    Those of a runtime, ``runtime.observers``, hear that runtime alone; those of a registry,
    ``registry.observers``, hear every runtime that has it. Safe from threads.

    Args:
        manager: of the plugins; None: a new one.
        above: who is told of each event first.
    """

    def __init__(
        self, manager: pluggy.PluginManager | None = None, *, above: Observers | None = None
    ) -> None:
        self._manager, self._above = manager or plugin_manager(), above

    @property
    def wants_details(self) -> bool:
        """Whether some observer wants the events of :mod:`sfi_agent.details`."""
        if self._above and self._above.wants_details:
            return True
        return any(_wants_details(each.plugin) for each in self._manager.hook.sfi_on_event.get_hookimpls())

    def emit(self, event: Event) -> None:
        """Pass an ``event`` to every observer; one that raises is logged and heard no more."""
        if self._above:
            self._above.emit(event)
        for implementation in list(self._manager.hook.sfi_on_event.get_hookimpls()):
            if isinstance(event, Detail) and not _wants_details(implementation.plugin):
                continue
            try:
                implementation.function(event=event)
            except Exception:
                log.exception(
                    "plugin %r failed on %s and is muted", implementation.plugin_name, type(event).__name__
                )
                with suppress(ValueError):  # another thread was faster
                    self._manager.hook.sfi_on_event._remove_plugin(implementation.plugin)

    def add(self, observer: object) -> None:
        """Have one more ``observer``, a plugin, hear events from now on.

        Raises:
            PluginError: it breaks the contract, or another has its name.
        """
        name = plugin_name(observer)
        try:
            if self._manager.has_plugin(name):
                raise PluginError("another plugin has this name already; rename one of them")
            check_hooks(observer)
        except (PluginError, UnknownNameError) as error:
            raise PluginError(f"plugin {name!r}: {error}") from None
        self._manager.register(observer, name)

    def remove(self, observer: object) -> None:
        """Have an ``observer`` hear no more events. One that is not there is fine."""
        if self._manager.is_registered(observer):
            self._manager.unregister(observer)

    @contextmanager
    def heard_by(self, observer: object) -> Iterator[None]:
        """Have one more ``observer`` hear events, inside a ``with`` block alone."""
        self.add(observer)
        try:
            yield
        finally:
            self.remove(observer)


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
