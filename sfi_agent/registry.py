"""Finds plugins, names the broken ones, and makes the objects a policy names."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import torch

from sfi_agent.contracts import AttentionKernel
from sfi_agent.entry import Entry, Kind
from sfi_agent.environment import environment
from sfi_agent.errors import PluginError, SettingError, UnknownNameError
from sfi_agent.hookcheck import check_hooks
from sfi_agent.observers import NAME_TAKEN, Observers, Problem, plugin_manager, plugin_name, reason_of
from sfi_agent.policy import Policy

log = logging.getLogger(__name__)
HOOKS: dict[Kind, str] = {
    "selector": "sfi_register_selectors",
    "boundary": "sfi_register_boundaries",
    "kernel": "sfi_register_kernels",
    "policy": "sfi_register_policies",
}


class Registry:
    """Every selector, boundary detector and kernel that this installation has.

    Args:
        extra: plugins (modules or objects) beside those of the entry-point group ``sfi_agent``.
        disabled: plugin names to leave out; also read from ``SFI_DISABLE_PLUGINS``.
        discover: whether to read the entry points at all.

    A plugin that cannot be imported, breaks a contract or reuses a name is left out whole and listed in
    ``problems``, and one of ``extra`` logged as well; the rest work. Those of sfi-agent itself come first,
    so that a name of theirs stays theirs.

    Attributes:
        disabled: names that are left out on purpose.
        observers: those of the plugins that hear events, and whoever is added, of every runtime that has this
            registry.
    """

    def __init__(
        self, extra: Iterable[object] = (), *, disabled: Iterable[str] = (), discover: bool = True
    ) -> None:
        self.disabled = frozenset(disabled) | environment().disabled_plugins
        self._refused: list[Problem] = []
        self._left_out: list[str] = []
        self._entries: dict[Kind, dict[str, Entry]] = {kind: {} for kind in HOOKS}
        self._manager = plugin_manager()
        self.observers = Observers(self._manager)
        for point in sorted(entry_points(group="sfi_agent") if discover else (), key=_rank):
            self._admit(point.name, point.load)
        installed = len(self._refused)
        for plugin in extra:
            self._admit(plugin_name(plugin), partial(_itself, plugin))
        for problem in self._refused[installed:]:  # what somebody asked for; doctor tells of the others
            log.warning("plugin %r is not in use: %s", problem.plugin, problem.reason)
        if discover and (unknown := environment().disabled_plugins.difference(self._left_out)):
            known = ", ".join(sorted([*self.plugins, *self._left_out]))
            log.warning(
                "SFI_DISABLE_PLUGINS: no plugin is called %s; known: %s", ", ".join(sorted(unknown)), known
            )

    @property
    def plugins(self) -> list[str]:
        """Names of the plugins in use."""
        return sorted(name for name, _ in self._manager.list_name_plugin())

    @property
    def problems(self) -> list[Problem]:
        """Plugins that are left out, or hear no more events, each with its ``plugin`` and the ``reason``."""
        return [*self._refused, *self.observers.problems]

    def entries(self, kind: Kind) -> dict[str, Entry]:
        """What is registered, by name.

        Args:
            kind: ``selector``, ``boundary``, ``kernel`` or ``policy``.
        """
        return dict(self._entries[kind])

    def create(self, kind: Kind, name: str, settings: dict[str, Any] | None = None) -> Any:
        """Make the object registered as ``name``.

        Args:
            kind: as in :meth:`entries`.
            name: that it is registered under.
            settings: its fields; those that are missing have their defaults.

        Raises:
            UnknownNameError: no such name, or no such setting; lists the valid ones.
            SettingError: a setting has a value that is not allowed.
        """
        entry = self._entries[kind].get(name)
        if entry is None:
            raise UnknownNameError(kind, name, self._entries[kind], self._problem_note())
        return entry.made(settings or {})

    def settings(self, kind: Kind, name: str, given: dict[str, Any] | None = None) -> dict[str, Any]:
        """Every setting of what is registered as ``name``, as it stands with those ``given``.

        ``kind`` and errors as in :meth:`create`.
        """
        made = self.create(kind, name, given)
        if not dataclasses.is_dataclass(made):
            return dict(given or {})
        return {field.name: getattr(made, field.name) for field in dataclasses.fields(made) if field.init}

    def kernel(self, name: str, device: torch.device) -> AttentionKernel:
        """The kernel registered as ``name``, or the one that ``auto`` stands for.

        Raises:
            SettingError: it cannot run on ``device``; says why.
            PluginError: ``auto``, and none can.
        """
        if name == "auto":
            name = self.auto_kernel(device)
        kernel: AttentionKernel = self.create("kernel", name)
        if reason := kernel.unavailable(device):
            raise SettingError(f"kernel {name!r} cannot run on {device}: {reason}; use kernel 'auto'")
        return kernel

    def auto_kernel(self, device: torch.device) -> str:
        """Name of the kernel of highest ``priority`` that can run on ``device``, equals by name.

        Raises:
            PluginError: none of those with a priority can; says why.
        """
        ranks = {name: entry.priority for name, entry in self._entries["kernel"].items()}
        notes = ""
        for name in sorted(ranks, key=lambda name: (-ranks[name], name)):
            reason = self.kernel_problem(name, device) if ranks[name] > 0 else "is used by its name only"
            if reason is None:
                return name
            notes += f" Kernel {name!r}: {_sentence(reason)}"
        raise PluginError(f"no attention kernel can run on {device}.{notes}{self._problem_note()}")

    def kernel_problem(self, name: str, device: torch.device) -> str | None:
        """Why the kernel ``name`` cannot be made or run on ``device``, or None."""
        try:
            kernel: AttentionKernel = self.create("kernel", name)
            return kernel.unavailable(device)
        except Exception as error:  # whatever a plugin's kernel does, the others can be used
            return reason_of(error)

    def policy(self, name: str) -> Policy:
        """The policy registered as ``name``.

        Raises:
            UnknownNameError: no such name; lists those there are.
        """
        made: Policy = self.create("policy", name)
        return made

    def add(self, plugin: object) -> None:
        """Register one more ``plugin``, a module or an object.

        Raises:
            PluginError: it breaks the contract.
        """
        before = len(self._refused)
        self._admit(plugin_name(plugin), partial(_itself, plugin))
        if len(self._refused) > before:
            problem = self._refused.pop()
            raise PluginError(f"plugin {problem.plugin!r}: {problem.reason}")

    def _admit(self, name: str, load: Callable[[], object]) -> None:
        if name in self.disabled:
            self._left_out.append(name)
            return
        if self._manager.has_plugin(name):
            self._refused.append(Problem(name, NAME_TAKEN))
            return
        try:
            plugin = load()
            check_hooks(plugin)
            self._manager.register(plugin, name)
            self._manager.check_pending()
            self._collect(name, plugin)
        except Exception as error:  # whatever a plugin does, the host names it and goes on
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            self._refused.append(Problem(name, reason_of(error)))

    def _collect(self, name: str, plugin: object) -> None:
        found: list[Entry] = []
        for kind, hook in HOOKS.items():
            for implementation in getattr(self._manager.hook, hook).get_hookimpls():
                if implementation.plugin is plugin:
                    implementation.function(
                        register=lambda n, f, kind=kind: found.append(Entry(kind, n, f, name))
                    )
        new: dict[Kind, dict[str, Entry]] = {kind: {} for kind in HOOKS}
        for entry in found:
            kind = entry.kind
            if other := self._entries[kind].get(entry.name) or new[kind].get(entry.name):
                raise PluginError(f"{kind} {entry.name!r} is already registered by plugin {other.plugin!r}")
            new[kind][entry.name] = entry
        for kind, entries in new.items():
            self._entries[kind].update(entries)

    def _problem_note(self) -> str:
        told = [f" Plugin {p.plugin!r} is not in use: {_sentence(p.reason)}" for p in self._refused]
        return "".join([*told, *(f" Plugin {name!r} is disabled." for name in self._left_out)])


@lru_cache(maxsize=1)
def default_registry() -> Registry:
    """The registry of this installation, made once."""
    return Registry()


def _rank(point: EntryPoint) -> tuple[bool, str]:
    """Ours before others', whose names must not push ours out; then by name."""
    return point.dist is None or point.dist.name != "sfi-agent", point.name


def _itself(plugin: object) -> object:
    return plugin


def _sentence(reason: str) -> str:
    return reason if reason.endswith((".", "?", "!")) else f"{reason}."
