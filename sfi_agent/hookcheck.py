"""Whether a plugin's functions are hooks, with the arguments that hooks have."""

from __future__ import annotations

import inspect
from typing import Any

from sfi_agent import hookspecs
from sfi_agent.errors import PluginError, UnknownNameError

INSTANCE = "Registry(extra=[Plugin()]), or plugin = Plugin() in its module and the entry point module:plugin"


def check_hooks(plugin: object) -> None:
    """Refuse what pluggy would pass over, or report without the valid names.

    Raises:
        UnknownNameError: a hook, or an argument of one, has no such name; lists the valid ones.
        PluginError: a function named like a hook is not marked as one, a class was given where its hooks are
            an instance's, or there is no hook at all.
    """
    hooks = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("sfi_")}
    found = False
    for name in dir(plugin):
        function = getattr(plugin, name, None)
        mark: Any = getattr(function, "sfi_agent_impl", None)
        marked = isinstance(mark, dict)
        if not callable(function) or not (marked or name.startswith("sfi_")):
            continue
        hook = (marked and mark.get("specname")) or name
        if hook not in hooks:
            raise UnknownNameError("hook", hook, hooks)
        if not marked:
            raise PluginError(f"{name} lacks @hookimpl (from sfi_agent.hookspecs import hookimpl)")
        found = True
        known = inspect.signature(hooks[hook]).parameters
        for argument in inspect.signature(function).parameters.values():
            if argument.kind is argument.POSITIONAL_OR_KEYWORD and argument.name not in known:
                if inspect.isclass(plugin):
                    raise PluginError(f"{plugin.__name__} is a class, give an instance: {INSTANCE}")
                raise UnknownNameError(f"argument of {hook}", argument.name, known)
    if not found:
        raise PluginError(
            "has no hook: its functions must be marked @hookimpl, or, where they are methods of a class, an "
            f"instance must be named: {INSTANCE}"
        )
