"""A class as a reader of its page needs it: what it is, what it is made with, its members."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from generating.docstrings import attributes, prose, section, signature

OURS = ("sfi_agent", "langchain_sfi")


def described(kind: type) -> Iterator[str]:
    """Heading, docstring, attributes and public members."""
    yield f"## `{kind.__name__}`"
    yield prose(kind)
    if made_with := bullets(kind, "Args"):
        yield fenced(signature(kind).removesuffix(" -> None"))
        yield made_with
    yield from fields(kind)
    yield from errors(kind)
    for name, member in members(kind):
        if not is_property(member):
            yield f"### `{kind.__name__}.{name}`"
            yield from callable_parts(member)


def fields(kind: type) -> Iterator[str]:
    """The attributes of a class, with their types where it is a dataclass, and its properties."""
    typed = (
        {each.name: each.type for each in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    )
    told = [*attributes(kind)]
    told += [(name, lowered(prose(each))) for name, each in members(kind) if is_property(each)]
    if told:
        yield "Attributes:"
        yield "\n".join(
            f"- {', '.join(_typed(name, typed) for name in names.split(', '))}: {meaning}"
            for names, meaning in told
        )


def _typed(name: str, types: dict[str, Any]) -> str:
    return f"`{name}` (`{types[name]}`)" if name in types else f"`{name}`"


def lowered(sentence: str) -> str:
    """A sentence as it stands behind a colon."""
    return sentence if sentence[1:2].isupper() else sentence[:1].lower() + sentence[1:]


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties with a docstring, a base's first, in the order of the source."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] in OURS:
            found |= {name: each for name, each in vars(base).items() if is_public(name, each)}
    for name, member in found.items():
        if member.__doc__:  # its own: what only widens a base's method has none
            yield name, member if is_property(member) else getattr(kind, name)


def is_public(name: str, member: Any) -> bool:
    """Whether it is a method or a property that a user may use."""
    if name.startswith("_") or inspect.isclass(member):
        return False
    return inspect.isroutine(member) or is_property(member)


def callable_parts(member: Callable[..., Any]) -> Iterator[str]:
    """Signature, docstring, arguments, and what is returned and raised."""
    yield fenced(signature(member, bound="." in member.__qualname__ and not inspect.ismethod(member)))
    yield prose(member)
    yield bullets(member, "Args")
    for parts in section(member, "Returns"):
        yield f"Returns {' '.join(': '.join(filter(None, parts)).split())}"
    yield from errors(member)


def errors(of: object) -> Iterator[str]:
    """What is raised, and when."""
    if raised := bullets(of, "Raises"):
        yield "Raises:"
        yield raised


def bullets(of: object, heading: str) -> str:
    """A section as a list."""
    return "\n".join(
        f"- {', '.join(f'`{name}`' for name in names.split(', '))}: {meaning}"
        for names, meaning in section(of, heading)
    )


def fenced(code: str) -> str:
    """A block that no test runs."""
    return f"```text\n{code}\n```"


def is_property(member: Any) -> bool:
    """Whether a class's member is read, not called."""
    return isinstance(member, property | cached_property)
