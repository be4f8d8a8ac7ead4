"""Where a result comes from: the machine, the versions, the commit, and exactly which weights."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import torch

from sfi_agent.environment import environment
from sfi_agent.models.fingerprint import weights_fingerprint
from sfi_agent.runtime.runtime import Runtime


@dataclass(frozen=True)
class Provenance:
    """Stated with every record.

    Attributes:
        date: ISO, UTC.
        commit: of sfi-agent.
        device: the GPU's name, or the processor's with its cores.
        versions: of sfi-agent, torch, transformers and Python.
    """

    date: str
    commit: str
    device: str
    versions: str

    @classmethod
    def of(cls, device: torch.device) -> Provenance:
        """Of a measurement made here and now on ``device``."""
        libraries = [f"{name} {version(name)}" for name in ("sfi-agent", "torch", "transformers")]
        return cls(
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            commit=_commit(),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            versions=", ".join([*libraries, f"Python {platform.python_version()}"]),
        )


def fingerprint(runtime: Runtime) -> str:
    """A digest of the model: names, shapes and dtypes of its weights, and a sample of each."""
    return weights_fingerprint(runtime.model)


@lru_cache(maxsize=1)
def _commit() -> str:
    """As ``SFI_COMMIT`` states it, where the tree travels without its history; else as git says."""
    if stated := environment().commit:
        return stated
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
