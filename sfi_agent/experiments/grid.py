"""From a page's families and grid to policies with labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from sfi_agent.errors import SettingError, UnknownNameError
from sfi_agent.experiments.page import Page
from sfi_agent.policy import Policy, Sampling
from sfi_agent.registry import Registry

NESTED = ("selector_settings", "boundary_settings")
"""Settings that are mappings; the grid reaches into them with a point: ``selector_settings.captured``."""


@dataclass(frozen=True)
class Case:
    """One policy to measure.

    Attributes:
        label: unique on the page: the family and what the grid set, ``snapkv budget=0.25``.
        family: what plots join by a line.
        policy: its settings.
        temperature: at which answers are drawn; 0: greedily.
    """

    label: str
    family: str
    policy: Policy
    temperature: float = 0.0


def cases(page: Page, registry: Registry) -> tuple[Case, ...]:
    """Every policy of the page, families in the order given.

    Raises:
        SettingError: a setting or a registered policy's name is not allowed; the label is named.
    """
    found = [case for family, settings, grid in _families(page) for case in _expand(
        family, {**page.base, **settings}, grid, registry)]  # fmt: skip
    labels = [case.label for case in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise SettingError(f"two policies are labelled {twice!r}; rename one of them")
    return tuple(found)


def _families(page: Page) -> Iterator[tuple[str, dict[str, Any], dict[str, list[Any]]]]:
    """Name, own settings and grid of each family."""
    if page.policies:
        for name, given in page.policies.items():
            settings = {"policy": given} if isinstance(given, str) else dict(given or {})
            own = _checked_grid(name, settings.pop("grid", {}))
            yield name, settings, {**page.grid, **own}
    elif page.grid:
        first, *others = page.grid
        for value in page.grid[first]:
            yield _shown(value), {first: value}, {name: page.grid[name] for name in others}
    else:
        yield "default", {}, {}


def _checked_grid(family: str, grid: Any) -> dict[str, list[Any]]:
    lists = isinstance(grid, dict) and all(isinstance(values, list) and values for values in grid.values())
    if not lists:
        raise SettingError(f"policy {family!r}: grid must map settings to lists of values (given {grid!r})")
    return dict(grid)


def _expand(
    family: str, settings: dict[str, Any], grid: dict[str, list[Any]], registry: Registry
) -> Iterator[Case]:
    for values in product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        parts = [f"{name.rpartition('.')[2]}={_shown(value)}" for name, value in chosen.items()]
        label = " ".join([family, *parts])
        yield _case(label, family, {**settings, **chosen}, registry)


def _case(label: str, family: str, settings: dict[str, Any], registry: Registry) -> Case:
    flat = dict(settings)
    try:
        sampling = Sampling.of(temperature=flat.pop("temperature", 0.0))
        base = registry.policy(str(flat.pop("policy"))) if "policy" in flat else Policy()
        policy = Policy.of(**_nested({**dict(base), **flat}))
    except SettingError as error:
        raise SettingError(f"policy {label!r}: {error}") from None
    return Case(label, family, policy, sampling.temperature)


def _nested(settings: dict[str, Any]) -> dict[str, Any]:
    """``a.b.c: value`` becomes ``a: {b: {c: value}}``, for the settings that are mappings."""
    found = {name: value for name, value in settings.items() if name.partition(".")[0] == name}
    for name, value in settings.items():
        head, *path = name.split(".")
        if not path:
            continue
        if head not in NESTED:
            raise UnknownNameError("nested setting", name, [f"{kind}.NAME" for kind in NESTED])
        found[head] = _put(found.get(head) or {}, path, value)
    return found


def _put(mapping: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    return {**mapping, head: _put(mapping.get(head) or {}, rest, value) if rest else value}


def _shown(value: Any) -> str:
    """A setting's value in a label."""
    if isinstance(value, list):
        return "+".join(map(_shown, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
