"""What a page may declare, and what is said about what it may not."""

from __future__ import annotations

import pytest

from sfi_agent.errors import SettingError
from sfi_agent.experiments.document import BEGIN, END, Document
from sfi_agent.experiments.page import Page, read_page


def refusal(bench, text=None):
    if text is not None:
        bench.path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingError) as error:
        bench.read()
    message = str(error.value)
    assert "\n" not in message
    assert str(bench.path) in message
    return message


def test_a_page_is_read(bench):
    document, page = read_page(bench.path)
    assert page.question == "Does it run?"
    assert page.workloads == ("prose", "code")
    assert (page.dtype, page.seed, page.plugins) == ("float32", 0, ())
    assert document.text.endswith("And so.\n")


def test_an_unknown_key_lists_the_known(bench):
    bench.write(workload=["prose"])
    message = refusal(bench)
    assert all(key in message for key in Page.model_fields)
    assert "Did you mean 'workloads'?" in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"question": None}, "question"),
        ({"question": ""}, "question"),
        ({"context": 0}, "context"),
        ({"decode": "many"}, "decode"),
        ({"dtype": "float8"}, "'bfloat16', 'float16' or 'float32'"),
        ({"workloads": []}, "workloads"),
        ({"workloads": ["prose", "prose"]}, "given twice"),
        ({"grid": {"budget": []}}, "budget has no values"),
        ({"grid": {"budget": 0.5}}, "grid.budget"),
        ({"policies": {"x": 3}}, "policies.x"),
        ({"measure": "speed"}, "known: drafts, fidelity, retrieval, support"),
    ],
)
def test_a_wrong_value_is_named(bench, changes, told):
    bench.write(**changes)
    assert told in refusal(bench)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# No front matter\n", "has no front matter"),
        ("---\nquestion: x\n", "has no front matter"),
        ("---\n- a\n- b\n---\n", "must be `key: value` lines"),
        ("---\n---\n", "must be `key: value` lines"),
        ("---\nquestion: x\nmodel: [a\n---\n", "line "),
        ("---\nquestion: x\nmodel: a: b\n---\n", "line 3"),
        ("---\nquestion: x\npolicies:\n  a: {}\n  a: {}\n---\n", "line 5: 'a' is given twice"),
    ],
)
def test_what_is_no_front_matter(bench, text, told):
    assert told in refusal(bench, text)


def test_files_that_cannot_be_read(bench):
    bench.path.write_bytes(b"---\n\xff\n---\n")
    assert "not UTF-8" in refusal(bench)
    bench.path.unlink()
    assert "cannot read" in refusal(bench)


def test_blocks_count_their_lines_in_the_page(tmp_path):
    text = "# P\n\n```python file=a.py\nx = 1\n```\n\n```python\ny = 2\n```\n\n```python  file=b.py\nz\n```\n"
    files = Document(tmp_path / "p.md", text).files()
    assert list(files) == ["a.py", "b.py"]
    assert files["a.py"].splitlines()[3] == "x = 1"
    assert text.splitlines()[3] == "x = 1"
    assert files["b.py"].splitlines()[11] == "z"
    with pytest.raises(SettingError, match=r"two blocks with file=a\.py"):
        Document(tmp_path / "p.md", text + text).files()


def test_results_go_between_the_markers(tmp_path):
    document = Document(tmp_path / "p.md", f"a\n{BEGIN}\nold\n{END}\nb\n")
    assert document.with_results("new\n") == f"a\n{BEGIN}\nnew\n{END}\nb\n"


@pytest.mark.parametrize("text", ["", BEGIN, END, END + BEGIN, BEGIN + BEGIN + END, BEGIN + END + END])
def test_markers_that_are_not_a_pair(tmp_path, text):
    with pytest.raises(SettingError, match="needs one line"):
        Document(tmp_path / "p.md", text).with_results("x")
