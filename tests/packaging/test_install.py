"""The installed distribution: what it can import, and what importing it does."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

import sfi_agent

PROBE = """
import importlib.util, json, sys
names = ["plugins", "kernels", "integrations", "tests", "benchmarks", "docs"]
print(json.dumps([name for name in names if importlib.util.find_spec(name)]))
"""

SIDE_EFFECTS = """
import json, logging, os, pkgutil, signal, sys, threading, warnings
before = [dict(os.environ), list(sys.path), list(logging.root.handlers), signal.getsignal(signal.SIGINT)]
import {package}
after = [dict(os.environ), list(sys.path), list(logging.root.handlers), signal.getsignal(signal.SIGINT)]
loaded = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps([before == after, loaded, threading.active_count()]))
"""


def run(code: str, folder: Path) -> Any:
    """What ``code`` prints as JSON, away from the repository and from what this process has set."""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=folder, env={}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_nothing_generic_is_importable(tmp_path: Path) -> None:
    assert run(PROBE, tmp_path) == []


@pytest.mark.parametrize(
    ("package", "heavy"),
    [
        (
            "sfi_agent",
            ["langchain_sfi", "sfi_mqtt", "sfi_plugins", "sfi_kernels", "langchain_core", "typer", "triton"],
        ),
        ("sfi_agent.cli", ["pydantic", "torch", "typer"]),  # Ctrl-C is one line once this is there
        ("sfi_agent.registry", ["langchain_core", "transformers", "sfi_plugins", "typer", "triton"]),
        ("sfi_mqtt", ["langchain_core", "transformers", "sfi_plugins", "sfi_kernels", "typer", "triton"]),
        ("sfi_agent.runtime.runtime", ["transformers", "langchain_core"]),
        ("sfi_agent.experiments.experiment", ["transformers", "matplotlib"]),
        ("sfi_agent.models.embedded", ["torch", "transformers", "gguf", "langchain_core"]),
    ],
)
def test_an_import_has_no_side_effects(tmp_path: Path, package: str, heavy: list[str]) -> None:
    unchanged, loaded, threads = run(SIDE_EFFECTS.format(package=package, heavy=heavy), tmp_path)
    assert unchanged
    assert loaded == []
    assert threads == 1


def test_an_import_leaves_the_attention_registries_of_transformers_alone(tmp_path: Path) -> None:
    code = """
import json
from transformers import AttentionInterface, AttentionMaskInterface
before = sorted(AttentionInterface()), sorted(AttentionMaskInterface())
import sfi_agent.registry
print(json.dumps(before == (sorted(AttentionInterface()), sorted(AttentionMaskInterface()))))
"""
    assert run(code, tmp_path) is True


def test_every_public_name_is_listed() -> None:
    assert sfi_agent._LAZY.keys() < set(sfi_agent.__all__)
    assert all(hasattr(sfi_agent, name) for name in sfi_agent.__all__)


def test_the_installed_version_is_that_of_the_project(project: dict[str, Any]) -> None:
    assert version("sfi-agent") == project["project"]["version"]


def test_the_changelog_has_the_version(project: dict[str, Any]) -> None:
    changelog = (Path(__file__).parents[2] / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{project['project']['version']}]" in changelog


def test_one_entry_point_a_kind_of_plugin() -> None:
    assert {point.name for point in entry_points(group="sfi_agent")} >= {"sfi_kernels", "sfi_plugins"}
