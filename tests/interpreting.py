"""Triton's interpreter, which takes the place of a GPU, without a third of its work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from triton.runtime import interpreter


def patch_once() -> None:
    """Let it replace its language's functions once a launch for each module that has kernels' functions.

    It does so anew at each call of one from a kernel, and finds all of them replaced.
    """
    patch: Callable[[Any], Any] = interpreter._patch_lang
    restore = interpreter._LangPatchScope.restore
    patched: set[int] = set()

    def patch_unless_patched(function: Any) -> Any:
        module = id(function.__globals__)
        if module in patched:
            return None  # a launch's scope is its first, which alone is used
        patched.add(module)
        return patch(function)

    def restored(scope: Any) -> None:
        patched.clear()
        restore(scope)

    interpreter._patch_lang = patch_unless_patched
    interpreter._LangPatchScope.restore = restored
