"""Files that are written whole or not at all, and what is no file."""

from __future__ import annotations

import os
import threading

from sfi_agent.trace import Trace
from sfi_agent.trace import write as write_trace
from sfi_agent.writing import write
from tests.sfi_agent.disk import full, refused


def test_what_cannot_be_written_whole_leaves_what_was_there(tmp_path):
    file = tmp_path / "there.html"
    file.write_text("before", encoding="utf-8")
    for put in (lambda path: write(path, 101 * "x"), lambda path: write_trace(Trace(sfi_agent="0"), path)):
        with full(), refused(file):
            put(file)
        with full(), refused(tmp_path / "new.html"):
            put(tmp_path / "new.html")
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text(encoding="utf-8") == "before"


def test_a_pipe_stays_one(tmp_path):
    os.mkfifo(pipe := tmp_path / "pipe")
    writing = threading.Thread(target=write, args=(pipe, "text"), daemon=True)
    writing.start()
    assert pipe.read_text(encoding="utf-8") == "text"
    writing.join(30)
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_a_link_stays_one_and_a_file_keeps_who_may_read_it(tmp_path):
    file, link = tmp_path / "there.md", tmp_path / "here.md"
    file.write_text("before", encoding="utf-8")
    file.chmod(0o640)
    link.symlink_to(file)
    write(link, "after")
    assert link.is_symlink()
    assert (file.read_text(encoding="utf-8"), file.stat().st_mode & 0o777) == ("after", 0o640)
