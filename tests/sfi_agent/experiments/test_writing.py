"""What cannot be written whole leaves what was there, and one line that says why."""

from __future__ import annotations

import pytest

from sfi_agent.experiments.experiment import Experiment
from sfi_agent.experiments.new import new_page
from sfi_agent.experiments.render import render
from sfi_agent.experiments.results import Results
from tests.sfi_agent.disk import full, refused

pytest.importorskip("resource")


def test_a_page_that_cannot_be_drawn_is_as_it_was(bench):
    before, experiment = bench.path.read_text(), Experiment.read(bench.path)
    with full(), refused(bench.path):
        render(experiment)
    assert bench.path.read_text() == before
    assert list(bench.path.parent.iterdir()) == [bench.path]
    render(experiment)
    assert "Not run yet." in bench.path.read_text()


def test_a_page_that_cannot_be_begun_is_not_there(tmp_path):
    with full(), refused(tmp_path / "one.md"):
        new_page("one", tmp_path)
    assert list(tmp_path.iterdir()) == []
    new_page("one", tmp_path)


def test_results_that_cannot_be_written_are_as_they_were(bench):
    results = bench.run("recent").results
    before = sorted((path, path.read_text()) for path in bench.path.parent.iterdir())
    with full(), refused(results.path):
        results.drop(results.records[:1])
    assert sorted((path, path.read_text()) for path in bench.path.parent.iterdir()) == before
    assert len(Results.at(results.path).records) == 4
