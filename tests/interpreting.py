"""Triton's interpreter, which takes the place of a GPU, without what it does over and over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quicker() -> Iterator[None]:
    """Inside, it replaces its language's functions once a launch for each module that has kernels' functions.

    It does so anew at each call of one from a kernel, and finds all of them replaced. And it looks the NumPy
    type of each of its types up, for which it makes a table each time.
    """
    from triton.runtime import interpreter

    scope = interpreter._LangPatchScope
    patch: Callable[[Any], Any] = interpreter._patch_lang
    restore: Callable[[Any], None] = scope.restore
    find: Callable[[Any], Any] = interpreter._get_np_dtype
    patched: set[int] = set()
    known: dict[str, Any] = {}

    def patch_unless_patched(function: Any) -> Any:
        module = id(function.__globals__)
        if module in patched:
            return None  # a launch's scope is its first, which alone is used
        patched.add(module)
        return patch(function)

    def restored(own: Any) -> None:
        patched.clear()
        restore(own)

    def found(kind: Any) -> Any:
        name = kind.scalar.name
        if name not in known:
            known[name] = find(kind)
        return known[name]

    interpreter._patch_lang, scope.restore, interpreter._get_np_dtype = patch_unless_patched, restored, found
    try:
        yield
    finally:
        interpreter._patch_lang, scope.restore, interpreter._get_np_dtype = patch, restore, find
