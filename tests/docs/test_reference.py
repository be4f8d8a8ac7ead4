"""The reference pages that are made of docstrings: what is public is on them, and says what it is."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

import langchain_sfi
import sfi_agent
from generating import classes, command_line, python
from generating.docstrings import attributes, section, signature
from langchain_sfi import SFIChatModel

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
SOURCES = [ROOT / "sfi_agent", *(ROOT / folder for folder in ("plugins", "kernels", "integrations"))]
PUBLIC = {"python": sfi_agent, "langchain": langchain_sfi}
KINDS = [
    *(getattr(module, name) for module in PUBLIC.values() for name in module.__all__),
    *python.BESIDE,
]
COMMANDS = dict(command_line.commands())


def own_members(kind: Any) -> Iterator[tuple[str, Any]]:
    """What a user may call or read of a class and of its bases here."""
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] in classes.OURS:
            for name, member in vars(base).items():
                if classes.is_public(name, member):
                    yield name, member


CALLED = [
    pytest.param(member, id=f"{kind.__name__}.{name}")
    for kind in KINDS
    for name, member in (own_members(kind) if inspect.isclass(kind) else [(kind.__name__, kind)])
    if not hasattr(BaseChatModel, name) or member.__doc__
]


@pytest.mark.parametrize(("page", "name"), [(page, name) for page in PUBLIC for name in PUBLIC[page].__all__])
def test_every_public_name_has_its_part_of_the_page(page: str, name: str) -> None:
    text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
    assert re.search(rf"^## `{name}`\n\n\S", text, re.MULTILINE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_public_name_says_what_it_is(kind: Any) -> None:
    assert kind.__doc__
    assert not kind.__doc__.startswith(f"{kind.__name__}("), "what a dataclass has without a docstring"


@pytest.mark.parametrize("member", CALLED)
def test_every_public_method_says_what_it_does_with_each_argument(member: Any) -> None:
    assert member.__doc__
    if classes.is_property(member):
        return
    named = {
        each.name
        for each in inspect.signature(getattr(member, "__func__", member)).parameters.values()
        if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) and each.name not in ("self", "cls")
    }
    said = {*re.findall(r"``(\w+)``", member.__doc__)}
    said |= {name for names, _ in section(member, "Args") for name in names.split(", ")}
    assert named <= said


def test_every_setting_of_the_chat_model_is_described() -> None:
    ours = {
        name
        for base in SFIChatModel.__mro__
        if base.__module__.partition(".")[0] in classes.OURS
        for name in inspect.get_annotations(base)
        if name in SFIChatModel.model_fields
    }
    assert {name for name, _ in attributes(SFIChatModel)} == ours


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help(command: str) -> None:
    assert COMMANDS[command].help
    assert [each.name for each in COMMANDS[command].params if not each.help] == []


def environment_variables() -> set[str]:
    """Names that the source reads from the environment, however it writes that."""
    return {
        node.value
        for folder in SOURCES
        for path in folder.rglob("*.py")
        if re.search(r"\b(environ|getenv)\b", source := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", str(node.value))
    }


def test_every_environment_variable_is_on_the_page() -> None:
    found = environment_variables()
    assert found >= {"SFI_CACHE", "SFI_MQTT_PASSWORD"}
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    assert [name for name in sorted(found) if name not in text] == []


def test_a_long_signature_has_a_line_for_each_parameter() -> None:
    def short(of: int, *, more: str = "x") -> None: ...

    def longer(of: dict[str, list[int]], *rest: int, more: dict[str, list[int]], most: int = 3) -> int: ...

    assert signature(short) == "short(of: int, *, more: str = 'x') -> None"
    assert signature(short, bound=True) == "short(*, more: str = 'x') -> None"
    assert signature(longer).splitlines() == [
        "longer(",
        "    of: dict[str, list[int]],",
        "    *rest: int,",
        "    more: dict[str, list[int]],",
        "    most: int = 3,",
        ") -> int",
    ]
