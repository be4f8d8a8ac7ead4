"""A page's own code: a reader's selector, registered for the run of that page alone."""

from __future__ import annotations

import hashlib
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sfi_agent.errors import PluginError
from sfi_agent.experiments.document import Document
from sfi_agent.experiments.page import Page
from sfi_agent.policy import Policy
from sfi_agent.registry import Registry


@dataclass(frozen=True)
class OwnCode:
    """The blocks ``python file=NAME`` of a page, and the files that it names under ``plugins``.

    Attributes:
        sources: by module name; the path that errors name, and the code.
    """

    sources: dict[str, tuple[Path, str]]

    @classmethod
    def of(cls, document: Document, page: Page) -> OwnCode:
        """Read them.

        Raises:
            SettingError: a file cannot be read.
        """
        blocks = {name: (document.path, code) for name, code in document.files().items()}
        beside = [document.path.parent / name for name in page.plugins if name not in blocks]
        found = {**blocks, **{path.name: (path, Document.read(path, "plugin").text) for path in beside}}
        return cls({_module_name(document.path, name): source for name, source in found.items()})

    def registry(self) -> Registry:
        """This installation's plugins and the page's own.

        Raises:
            PluginError: the code does not run, or breaks the contract; says where.
        """
        registry = Registry()
        for name, (path, code) in self.sources.items():
            registry.add(_loaded(name, path, code))
        return registry

    def digest(self, policy: Policy, registry: Registry) -> str:
        """Of all of the page's own code, where ``policy`` uses some of it; else empty."""
        selector = registry.entries("selector").get(policy.selector)
        detectors = [registry.entries("boundary").get(name) for name in policy.boundaries]
        kernel = registry.entries("kernel").get(policy.kernel)
        if not any(entry and entry.plugin in self.sources for entry in (selector, kernel, *detectors)):
            return ""
        code = "\n".join(code.strip() for _, code in self.sources.values())
        return hashlib.sha256(code.encode()).hexdigest()[:16]


def _module_name(page: Path, file: str) -> str:
    return f"experiment {page.stem}: {Path(file).stem}"  # no import statement can collide with it


def _loaded(name: str, path: Path, code: str) -> ModuleType:
    module = ModuleType(name)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        exec(compile(code, str(path), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        raise PluginError(f"{path}, line {error.lineno}: {error.msg}") from None
    except Exception as error:
        raise PluginError(told(error, path)) from error
    return module


def told(error: BaseException, path: Path | None = None) -> str:
    """One line for an error in somebody's code: where, which, what.

    Args:
        error: as caught.
        path: prefer the innermost line of this file over the innermost of all.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path and frame.filename == str(path)] or frames
    where = f"{own[-1].filename}, line {own[-1].lineno}: " if own else ""
    return f"{where}{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"
