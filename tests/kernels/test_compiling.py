"""What a GPU would be given: that it can run it, which Triton's interpreter does not tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton")

SHARED = {"hopper": 227 * 1024, "consumer": 99 * 1024}
"""Memory that a program may have, bytes."""
REGISTERS = 2**16
"""Of a multiprocessor."""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return compiled_for("hopper", tmp_path_factory)


def compiled_for(gpu: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Compiled anew in a process of its own: in this one Triton interprets, where there is no GPU."""
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compiling", gpu],
        env={**plain, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_kernel_fits_a_multiprocessor(compiled):
    names = {each["kernel"] for each in compiled}
    steps = {
        "_append",
        "_attend",
        "_combine",
        "_linear",
        "_draw",
        "_seek",
        "_turn",
        "_score",
        "_rank",
        "_write",
    }
    refresh = {"_totals", "_masses", "_sliding_max", "_mix", "_contest", "_smallest", "_place", "_code"}
    assert names == steps | refresh
    for each in compiled:
        assert each["shared"] <= SHARED["hopper"], each
        assert 32 * each["warps"] * each["registers"] <= REGISTERS, each


def test_attention_fits_a_consumer_gpu(tmp_path_factory):
    found = compiled_for("consumer", tmp_path_factory)
    assert {"_attend", "_totals", "_masses"} <= {each["kernel"] for each in found}
    for each in found:
        assert each["shared"] <= SHARED["consumer"], each


def test_what_a_step_does_stays_in_registers_and_in_single_precision(compiled):
    for each in compiled:
        assert not each["doubles"], each
        if each["shape"] == "Qwen3-4B":
            assert each["stack"] == 0, each


def test_attention_has_two_blocks_of_keys_and_values_on_their_way(compiled):
    buffers = [
        each["buffers"] for each in compiled if (each["shape"], each["kernel"]) == ("Qwen3-4B", "_attend")
    ]
    assert buffers == 3 * [4 * [3]] + 5 * [[2, 2]]  # the former while another is read by the product


def test_scores_have_two_pages_of_codes_on_their_way(compiled):
    assert all(each["buffers"] == [2] for each in compiled if each["kernel"] == "_score")
