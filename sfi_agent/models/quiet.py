"""Silence for transformers' own progress bars and warnings, for as long as one call lasts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger
from types import ModuleType


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Turn progress bars, advice and warnings of transformers off, and then back as they were."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    hub = getLogger("huggingface_hub")
    hub_level = hub.level
    hub.setLevel(ERROR)
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings(), _switchable_gguf_bar():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.setLevel(hub_level)
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _switchable_gguf_bar() -> Iterator[None]:
    """The GGUF reader uses tqdm itself; lend it the one that heeds transformers' switch."""
    from transformers.utils import logging

    reader = _gguf_reader()
    own = getattr(reader, "tqdm", None)
    if reader is None or own is None:
        yield
        return
    reader.tqdm = logging.tqdm  # type: ignore[attr-defined]
    try:
        yield
    finally:
        reader.tqdm = own  # type: ignore[attr-defined]


def _gguf_reader() -> ModuleType | None:
    try:
        import transformers.modeling_gguf_pytorch_utils as reader
    except ImportError:  # versions that read GGUF elsewhere
        return None
    return reader
