"""Triton's interpreter, which takes the place of a GPU, without a third of its work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def patched_once() -> Iterator[None]:
    """Inside, it replaces its language's functions once a launch for each module that has kernels' functions.

    It does so anew at each call of one from a kernel, and finds all of them replaced.
    """
    from triton.runtime import interpreter

    scope = interpreter._LangPatchScope
    patch: Callable[[Any], Any] = interpreter._patch_lang
    restore: Callable[[Any], None] = scope.restore
    patched: set[int] = set()

    def patch_unless_patched(function: Any) -> Any:
        module = id(function.__globals__)
        if module in patched:
            return None  # a launch's scope is its first, which alone is used
        patched.add(module)
        return patch(function)

    def restored(own: Any) -> None:
        patched.clear()
        restore(own)

    interpreter._patch_lang, scope.restore = patch_unless_patched, restored
    try:
        yield
    finally:
        interpreter._patch_lang, scope.restore = patch, restore
