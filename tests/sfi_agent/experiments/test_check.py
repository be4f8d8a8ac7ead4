"""Page, results and plots agree, or the check says what does not."""

from __future__ import annotations

import json

import pytest

from sfi_agent.errors import SettingError
from sfi_agent.experiments.render import check, render


@pytest.fixture
def done(bench):
    """A page that has been run."""
    bench.run()
    return bench


def edit_results(bench, change):
    """Apply ``change`` to the stored results."""
    path = bench.path.with_suffix(".json")
    stored = json.loads(path.read_text())
    change(stored["records"])
    path.write_text(json.dumps(stored))


def test_after_a_run_they_agree(done):
    assert check(done.read()) == []
    assert render(done.read()) == []
    page = done.path.read_text()
    assert "![" in page
    assert "(page-frontier.svg)" in page
    assert "| recent budget=16 |" in page
    assert page.startswith("---\nquestion")
    assert page.endswith("\n\nAnd so.\n")


def test_prose_may_change(done):
    done.edit("Why.", "Because.")
    assert check(done.read()) == []


@pytest.mark.parametrize("between", ["", "Not run yet.\n"])
def test_a_page_that_was_not_run(bench, between):
    bench.edit("results:begin -->\n", f"results:begin -->\n{between}")
    assert check(bench.read()) == ["page.md has not been run: there is no page.json"]


def test_a_page_whose_results_are_gone_is_stale(done):
    done.path.with_suffix(".json").unlink()
    assert check(done.read()) == [
        "page.md has not been run: there is no page.json",
        "page-frontier.svg is not among the page's plots; delete it",
    ]


def test_a_stale_page(done):
    done.edit("**Every policy on prose**", "**Every policy on verse**")
    assert check(done.read()) == ["page.md is not what the results say"]
    render(done.read())
    assert check(done.read()) == []


def test_a_stale_plot(done):
    plot = done.path.with_name("page-frontier.svg")
    drawn = plot.read_text()
    plot.write_text(drawn.replace("#0072b2", "#0072b3"))
    assert check(done.read()) == ["page-frontier.svg is not what the results say"]
    plot.unlink()
    assert check(done.read()) == ["page-frontier.svg is not what the results say"]
    render(done.read())
    assert plot.read_text() == drawn


def test_a_plot_that_the_page_no_longer_has(done):
    done.write(body=done.path.read_text().partition("---\n\n")[2], plots=["slow-rate"])
    assert check(done.read()) == [
        "page.md is not what the results say",
        "page-slow-rate.svg is not what the results say",
        "page-frontier.svg is not among the page's plots; delete it",
    ]


def test_changed_results(done):
    def better(records):
        records[0]["values"]["agree"] = 1.5

    edit_results(done, better)
    assert check(done.read()) == [
        "page.md is not what the results say",
        "page-frontier.svg is not what the results say",
    ]


def test_results_that_claim_to_answer_something_else(done):
    def claim(records):
        records[0]["asked"]["context"] = 7000

    edit_results(done, claim)
    with pytest.raises(SettingError, match="was changed after it was measured"):
        done.read()


def test_missing_records(done):
    edit_results(done, lambda records: records.pop(1))
    problems = check(done.read())
    assert problems[0] == "page.json has no record of prose: recent budget=30"
    assert "page.md is not what the results say" in problems


def test_a_grid_that_asks_for_more(done):
    done.edit("  - 30\n", "  - 30\n  - 40\n")
    assert check(done.read()) == [
        "page.json has no record of prose: recent budget=40, paper budget=40",
        "page.json has no record of code: recent budget=40, paper budget=40",
    ]
    done.edit("  - 40\n", "  - 40\n  - 41\n  - 42\n")
    assert check(done.read())[0] == (
        "page.json has no record of prose: recent budget=40, recent budget=41, recent budget=42, "
        "paper budget=40, 2 more"
    )


def test_a_grid_that_asks_for_less(done):
    done.edit("  - 30\n", "")
    assert check(done.read())[0] == "page.json has 4 records that the page does not ask for"


def test_a_measurement_whose_code_changed(done, monkeypatch):
    monkeypatch.setattr(done.read().kind, "version", done.read().kind.version + 1)
    assert check(done.read())[1].startswith("page.json has no record of code: recent budget=16, ")


def test_values_of_another_kind(done):
    edit_results(done, lambda records: records[0]["values"].pop("agree"))
    with pytest.raises(SettingError, match=r"page\.json: record \w+: agree: Field required"):
        check(done.read())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"plots": ["support"]}, "unknown plot of fidelity 'support'; known: frontier, slow-rate"),
        ({"compare": {"kl": [0.1]}}, "known: kv_read_fraction, slow_rate"),
        ({"workloads": ["poetry"]}, "unknown workload of fidelity 'poetry'; known: chat, code, json, prose"),
        ({"measure": "retrieval", "plots": [], "compare": {}}, "unknown workload of retrieval 'prose'"),
    ],
)
def test_what_the_kind_does_not_know_is_refused_before_the_run(bench, changes, told):
    bench.write(**changes)
    with pytest.raises(SettingError, match=told):
        bench.run()
    assert bench.measured == []
