"""A page on the tiny model, run in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sfi_agent import Runtime
from sfi_agent.experiments.experiment import Experiment
from sfi_agent.experiments.render import render
from sfi_agent.experiments.run import Say, run

FRONT: dict[str, Any] = {
    "question": "Does it run?",
    "model": "tiny",
    "measure": "fidelity",
    "workloads": ["prose", "code"],
    "context": 60,
    "decode": 20,
    "base": {"dense_below": 0, "recent": 6, "sink": 2, "max_interval": 7, "min_gap": 0},
    "policies": {"recent": {"selector": "recent"}, "paper": {"selector": "paper"}},
    "grid": {"budget": [16, 30]},
    "plots": ["frontier"],
    "compare": {"kv_read_fraction": [0.6]},
}
BODY = "# A page\n\nWhy.\n\n<!-- results:begin -->\n<!-- results:end -->\n\nAnd so.\n"


class Bench:
    """Writes a page, and runs it with a tiny model.

    Attributes:
        path: of the page.
        lines: what the runs said.
        seed: of the model's weights.
    """

    def __init__(self, folder: Path, tiny: Any) -> None:
        self.path, self.tiny, self.seed = folder / "page.md", tiny, 0
        self.lines: list[str] = []
        self.on_line: Callable[[str], None] = lambda line: None
        self.write()

    def write(self, body: str = BODY, **changes: Any) -> None:
        """The page, with ``changes`` to its front matter (None: without the key)."""
        front = {key: value for key, value in {**FRONT, **changes}.items() if value is not None}
        self.path.write_text(f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{body}", encoding="utf-8")

    def edit(self, old: str, new: str) -> None:
        """Replace text of the page that occurs once."""
        text = self.path.read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        self.path.write_text(text.replace(old, new), encoding="utf-8")

    def run(self, only: str | None = None, **parts: Any) -> Experiment:
        """Measure, then draw."""
        experiment = run(self.path, self.load, Say(lambda line: None, self.say), only=only, **parts)
        render(experiment)
        return experiment

    def read(self) -> Experiment:
        """The experiment as it is on disk."""
        return Experiment.read(self.path)

    def load(self, experiment: Experiment) -> Runtime:
        model = self.tiny.model(seed=self.seed)
        return Runtime.load(model, tokenizer=self.tiny.tokenizer, registry=experiment.registry)

    def say(self, line: str) -> None:
        self.lines.append(line)
        self.on_line(line)

    @property
    def measured(self) -> list[str]:
        """Titles of what was measured since the last look."""
        found = [line.partition(" (")[0] for line in self.lines if line.endswith(" s")]
        self.lines.clear()
        return found


@pytest.fixture
def bench(tmp_path: Path, tiny: Any) -> Bench:
    return Bench(tmp_path, tiny)
