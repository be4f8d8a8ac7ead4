"""Write the reference pages that repeat what the code says; ``--check`` only compares them.

Usage: python docs/generate.py [--check]
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, Discriminator, TypeAdapter

from sfi_agent import details, errors, events, hookspecs, policy
from sfi_agent.models.embedded import EMBEDDED
from sfi_mqtt import answers, messages, requests

HERE = Path(__file__).parent
NOTE = "<!-- Written by docs/generate.py from the docstrings: run `make docs` after a change. -->"


def hooks() -> str:
    """Every hook with its exact signature."""
    parts = ["# Hooks", NOTE, markdown(hookspecs.__doc__)]
    for name, hook in sorted(vars(hookspecs).items(), key=lambda item: _line(item[1])):
        if name.startswith("sfi_"):
            text = re.sub(r":param (\w+): ", r"`\1`: ", markdown(hook.__doc__))
            parts += [f"## `{name}`", f"```text\n{signature(hook)}\n```", text]
    parts += ["## `register`", markdown(hookspecs.Register.__doc__)]
    return "\n\n".join(parts) + "\n"


def signature(hook: Callable[..., Any]) -> str:
    """``name(argument: type) -> type``, as in the source."""
    return hook.__name__ + str(inspect.signature(hook)).replace("'", "")


def settings() -> str:
    """Every setting of a turn, with its default and what is allowed."""
    parts = ["# Settings", NOTE]
    for model in (policy.Policy, policy.Sampling):
        parts += [f"## `{model.__name__}`", _summary(model), _fields(model)]
    return "\n\n".join(parts) + "\n"


def _fields(model: type[BaseModel]) -> str:
    meaning = dict(attributes(model))
    rows = ["| setting | default | allowed | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        told = meaning.get(name) or next(f"see `{other}`" for other in meaning if name in meaning[other])
        rows.append(f"| `{name}` | `{default!r}` | {_bounds(field.metadata)} | {told} |")
    return "\n".join(rows)


def _bounds(constraints: Iterable[Any]) -> str:
    """The bounds among a field's constraints: ``at least 1, at most 64``."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [(said, getattr(each, kind, None)) for each in constraints for kind, said in words.items()]
    return ", ".join(f"{said} {bound:g}" for said, bound in found if bound is not None)


def error_page() -> str:
    """The exception tree and when each is raised."""
    parts = ["# Errors", NOTE, markdown(errors.__doc__)]
    rows = ["| error | is a | raised when |", "| --- | --- | --- |"]
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.SFIError):
            parents = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
            rows.append(f"| `{name}` | {parents} | {_summary(kind)} |")
    return "\n\n".join([*parts, "\n".join(rows)]) + "\n"


def event_page() -> str:
    """Every event and its fields."""
    parts = ["# Events", NOTE, markdown(events.__doc__), *_described_kinds(events)]
    parts += ["# Details", markdown(details.__doc__), *_described_kinds(details)]
    return "\n\n".join(parts) + "\n"


def _described_kinds(module: ModuleType) -> Iterator[str]:
    """The dataclasses of a module and their fields."""
    for name, kind in vars(module).items():
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            yield f"## `{name}`"
            yield _summary(kind)
            if listed := "\n".join(f"- `{field}`: {meaning}" for field, meaning in attributes(kind)):
                yield listed


def event_messages() -> str:
    """The JSON schema of the events and the status over MQTT, each field with its meaning."""
    parts = (details.Token, details.Step, details.Memory)
    kinds = (*messages.event_messages().values(), messages.StatusMessage, *parts)
    return _described(messages.schema(), kinds)


def bus_messages() -> str:
    """The JSON schema of requests and answers over MQTT, each field with its meaning."""
    union = Annotated[requests.Request | answers.Reply, Discriminator("kind")]
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "requests to a runtime over MQTT, and its answers",
        **TypeAdapter(union).json_schema(),
    }
    homes = (requests, answers)
    kinds = {kind for home in homes for kind in vars(home).values() if isinstance(kind, type)}
    return _described(schema, [kind for kind in kinds if kind.__name__ in schema["$defs"]])


def _described(schema: dict[str, Any], kinds: Iterable[type]) -> str:
    """The schema as JSON, with what the docstrings say of ``kinds`` and of their fields."""
    for described in schema["$defs"].values():
        described["description"] = described.get("description", "").partition("\n\n")[0]
    for kind in kinds:
        described = schema["$defs"][kind.__name__]
        described["description"] = _summary(kind)
        meaning = {name: told for base in reversed(kind.__mro__) for name, told in attributes(base)}
        for name, field in described["properties"].items():
            told = meaning.get(name) or next(
                meaning[other] for other in meaning if f"`{name}`" in meaning[other]
            )
            field["description"] = told
    return json.dumps(schema, indent=2) + "\n"


def models() -> str:
    """The embedded models."""
    rows = ["| name | parameters | window | licence | from |", "| --- | --- | --- | --- | --- |"]
    rows += [
        f"| `{m.name}` | {m.parameters:,} | {m.window:,} tokens | {m.licence} | `{m.package}` {m.version} |"
        for m in EMBEDDED.values()
    ]
    about = markdown(inspect.getmodule(type(next(iter(EMBEDDED.values())))).__doc__)  # type: ignore[union-attr]
    return "\n\n".join(["# Embedded models", NOTE, about, "\n".join(rows)]) + "\n"


def attributes(kind: type) -> Iterator[tuple[str, str]]:
    """The ``Attributes:`` of a docstring: names and meanings."""
    listed = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    for entry in re.split(r"\n    (?=\w)", "\n" + listed.partition("\n\n")[0])[1:]:
        name, _, meaning = entry.partition(": ")
        yield name, markdown(" ".join(meaning.split()))


def _summary(kind: type) -> str:
    return markdown(inspect.cleandoc(kind.__doc__ or "").partition("\n\n")[0].replace("\n", " "))


def markdown(docstring: str | None) -> str:
    """The little reStructuredText that docstrings here use, in Markdown."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"^::\n\n((?:    .*\n?|\n)+)", _fence, text, flags=re.MULTILINE)


def _fence(found: re.Match[str]) -> str:
    return "```text\n" + inspect.cleandoc(found.group(1)) + "\n```\n\n"


def _line(value: object) -> int:
    return inspect.getsourcelines(value)[1] if inspect.isfunction(value) else 0


def pages() -> dict[Path, str]:
    """Every generated page and what it should say."""
    reference = HERE / "reference"
    return {
        reference / "hooks.md": hooks(),
        reference / "settings.md": settings(),
        reference / "errors.md": error_page(),
        reference / "events.md": event_page(),
        reference / "event-messages.json": event_messages(),
        reference / "bus-messages.json": bus_messages(),
        reference / "models.md": models(),
    }


def main(arguments: list[str]) -> int:
    """Write what changed, or with ``--check`` name it and return 1."""
    stale = {
        path: text
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        print(f"{'stale' if '--check' in arguments else 'wrote'}: {path.relative_to(HERE.parent)}")
        if "--check" not in arguments:
            path.write_text(text, encoding="utf-8")
    if stale and "--check" in arguments:
        print("run: make docs")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
