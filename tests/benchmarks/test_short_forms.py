"""Benchmarks run: in a short form, which records nothing; those that need a GPU as far as their options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.sfi_mqtt.brokers import MOSQUITTO

ROOT = Path(__file__).parents[2]
SHORT = {
    "cpu.py": ("steps", "memory"),
    "sessions.py": (),
    "agents.py": (),
    "bus.py": (),
    "gpu.py": (),
    "gpu_gate.py": (),
}
ON_A_GPU = sorted({path.name for path in (ROOT / "benchmarks").glob("gpu*.py")} - {*SHORT})


def run(name: str, *options: str) -> str:
    command = [sys.executable, f"benchmarks/{name}", *options]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.usefixtures("smollm2")
@pytest.mark.parametrize("name", SHORT)
def test_its_short_form_runs(name):
    if name == "bus.py" and not MOSQUITTO:
        pytest.skip("needs mosquitto")
    recorded = {path: path.read_bytes() for path in (ROOT / "benchmarks/results").iterdir()}
    run(name, "--quick", *SHORT[name])
    assert {path: path.read_bytes() for path in (ROOT / "benchmarks/results").iterdir()} == recorded


@pytest.mark.parametrize("name", ON_A_GPU)
def test_one_that_needs_a_gpu_says_what_it_does(name):
    assert "usage" in run(name, "--help")
