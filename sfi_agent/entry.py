"""One registered name: what it makes, and of which settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from sfi_agent.contracts import AttentionKernel, BoundaryDetector, Selector
from sfi_agent.errors import PluginError, SettingError, UnknownNameError
from sfi_agent.policy import Policy, one_line

Kind = Literal["selector", "boundary", "kernel", "policy"]
CONTRACTS: dict[Kind, type] = {
    "selector": Selector,
    "boundary": BoundaryDetector,
    "kernel": AttentionKernel,
    "policy": Policy,
}


@dataclass(frozen=True)
class Entry:
    """One registered name: its factory and the plugin that offered it."""

    kind: Kind
    name: str
    factory: Callable[..., Any]
    plugin: str

    @property
    def priority(self) -> int:
        """The factory's own: an inherited one would make a default of what only builds on it."""
        return int(getattr(self.factory, "__dict__", {}).get("priority", 0))

    def made(self, settings: dict[str, Any]) -> Any:
        """Make the object.

        Raises:
            UnknownNameError: there is no such setting; lists the valid ones.
            SettingError: a setting has a value that is not allowed.
            PluginError: what the factory makes is not of this kind.
        """
        told = f"{self.kind} {self.name!r}"
        if dataclasses.is_dataclass(self.factory):
            known = [field.name for field in dataclasses.fields(self.factory) if field.init]
            for key in settings:
                if key not in known:
                    raise UnknownNameError(f"setting of {told}", key, known)
            settings = self._validated(settings)
        try:
            made = self.factory(**settings)
        except (TypeError, ValueError) as error:
            raise SettingError(f"{told}: {error}") from error
        if not isinstance(made, CONTRACTS[self.kind]):
            raise PluginError(
                f"plugin {self.plugin!r}: {told} made a {type(made).__name__}, "
                f"not a {CONTRACTS[self.kind].__name__}"
            )
        return made

    def _validated(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Settings converted and checked against the dataclass's annotations."""
        checked = {}
        resolved = get_type_hints(self.factory)
        for key, value in settings.items():
            adapter: TypeAdapter[Any] = TypeAdapter(
                resolved[key], config=ConfigDict(arbitrary_types_allowed=True)
            )
            try:
                checked[key] = adapter.validate_python(value)
            except ValidationError as error:
                raise SettingError(f"{self.name}.{key}: {one_line(error).partition(': ')[2]}") from None
        return checked
