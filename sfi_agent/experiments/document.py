"""An experiment's page as text: front matter, blocks of code, and the part that is written by a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own

from sfi_agent.errors import SettingError

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
FRONT = re.compile(r"\A---\n(.*?)^---\n", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python[ \t]+file=(\S+)[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Document:
    """A page as it is on disk.

    Attributes:
        path: of the page.
        text: all of it.
    """

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path, kind: str = "page") -> Document:
        """The page at ``path``, or another file of text: ``kind`` is what errors call it.

        Raises:
            SettingError: it cannot be read as UTF-8 text.
        """
        try:
            return cls(path, path.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise SettingError(
                f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8"
            ) from None
        except OSError as error:
            raise SettingError(f"cannot read {kind} {path}: {error.strerror}") from None

    @property
    def has_front_matter(self) -> bool:
        """Whether the page begins as an experiment does."""
        return FRONT.match(self.text) is not None

    def front_matter(self) -> dict[str, Any]:
        """What stands between the page's first line ``---`` and the next.

        Raises:
            SettingError: there is none, or it is no YAML mapping.
        """
        found = FRONT.match(self.text)
        if not found:
            raise SettingError(
                f"{self.path} has no front matter; begin the page with a line --- and end it with another "
                "(see `sfi-agent experiment new`)"
            )
        try:
            values = yaml.load(found[1], Loader=_Strict)
        except yaml.YAMLError as error:
            raise SettingError(f"{self.path}: {_where(error)}") from None
        if not isinstance(values, dict):
            raise SettingError(f"{self.path}: the front matter must be `key: value` lines")
        return values

    def files(self) -> dict[str, str]:
        """The blocks marked ``python file=NAME``, by name; lines are counted as in the page.

        Raises:
            SettingError: two have one name.
        """
        found: dict[str, str] = {}
        for block in BLOCK.finditer(self.text):
            if block[1] in found:
                raise SettingError(f"{self.path} has two blocks with file={block[1]}; rename one of them")
            found[block[1]] = "\n" * (self.text.count("\n", 0, block.start()) + 1) + block[2]
        return found

    def with_results(self, results: str) -> str:
        """The page with ``results`` between its two markers.

        Raises:
            SettingError: the markers are not there, once each and in order.
        """
        before, begin, rest = self.text.partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end or BEGIN in rest or END in before + after:
            raise SettingError(f"{self.path} needs one line {BEGIN} and after it one line {END}")
        return f"{before}{BEGIN}\n{results.strip()}\n{END}{after}"


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key given twice is an error instead of a policy that silently vanishes."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is given twice; rename one of them", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _where(error: yaml.YAMLError) -> str:
    """``line N: what is wrong``, N counted in the page."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    line = f"line {mark.line + 2}: " if mark else ""
    return f"{line}{problem or 'the front matter is not YAML'}"
