"""What cannot be written whole leaves what was there, and one line that says why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sfi_agent.errors import SettingError
from sfi_agent.experiments.experiment import Experiment
from sfi_agent.experiments.new import new_page
from sfi_agent.experiments.render import render
from sfi_agent.experiments.results import Results
from sfi_agent.experiments.writing import write

resource = pytest.importorskip("resource")


@contextmanager
def full() -> Iterator[None]:
    """The system takes 100 bytes of each file and no more, as a disk does that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def refused(path: Path) -> pytest.RaisesExc[SettingError]:
    return pytest.raises(SettingError, match=re.escape(f"cannot write {path}: File too large; make room"))


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


def test_a_link_stays_one_and_a_file_keeps_who_may_read_it(tmp_path):
    file, link = tmp_path / "there.md", tmp_path / "here.md"
    file.write_text("before", encoding="utf-8")
    file.chmod(0o640)
    link.symlink_to(file)
    write(link, "after")
    assert link.is_symlink()
    assert (file.read_text(encoding="utf-8"), file.stat().st_mode & 0o777) == ("after", 0o640)
