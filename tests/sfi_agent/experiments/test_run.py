"""A run measures what is missing, keeps what it has, and says in one line what is wrong."""

from __future__ import annotations

import json

import pytest

from sfi_agent.errors import PluginError, PromptError, SettingError, UnknownNameError
from sfi_agent.experiments.experiment import Experiment

ALL = [
    f"{workload}, {family} budget={budget}"
    for workload in ("prose", "code")
    for family in ("recent", "paper")
    for budget in (16, 30)
]
SELECTOR = '''
from dataclasses import dataclass
from sfi_agent.contracts import Selector, top_positions
from sfi_agent.hookspecs import hookimpl

@dataclass
class First(Selector):
    """The first candidates."""

    def refresh(self, evidence, view):
        scores = -evidence.probabilities.mean(-2).cumsum(-1)
        return top_positions(scores, view.count, view.start)

@hookimpl
def sfi_register_selectors(register):
    register("first", First)
'''


def test_everything_is_measured_once(bench):
    experiment = bench.run()
    assert bench.measured == ALL
    stored = json.loads(bench.path.with_suffix(".json").read_text())
    assert len(stored["records"]) == len(ALL)
    record = stored["records"][0]
    assert record["values"]["decode_tokens"] == 20
    assert 0 < record["values"]["kv_read_fraction"] <= 1
    assert all(record[name] for name in ("date", "commit", "device", "versions", "weights", "tokens"))
    again = bench.run()
    assert bench.measured == []
    assert again.results.records == experiment.results.records


def test_an_interrupted_run_goes_on_where_it_stopped(bench):
    def interrupt(line):
        if line.startswith(ALL[2]):
            raise KeyboardInterrupt

    bench.on_line = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.run()
    before = bench.path.with_suffix(".json").read_text()
    assert bench.measured == ALL[:3]
    bench.on_line = lambda line: None
    bench.run()
    assert "prose: 3 of 4 measured already" in bench.lines
    assert bench.measured == ALL[3:]
    after = bench.path.with_suffix(".json").read_text()
    assert after.startswith(before.removesuffix("\n]}\n"))
    assert list(bench.path.parent.glob(".*")) == []


def test_a_crash_while_writing_leaves_the_results_whole(bench, monkeypatch):
    bench.run("recent")
    before = bench.path.with_suffix(".json").read_text()

    def crash(self, target):
        raise OSError("the power is gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(bench.path), "replace", crash)
        with pytest.raises(SettingError, match="power"):
            bench.run()
    assert bench.path.with_suffix(".json").read_text() == before
    bench.lines.clear()
    bench.run()
    assert bench.measured == [title for title in ALL if "paper" in title]


def test_only_some(bench):
    bench.run("paper")
    assert bench.measured == [title for title in ALL if "paper" in title]
    bench.run("recent budget=30")
    assert bench.measured == [title for title in ALL if "recent budget=30" in title]
    with pytest.raises(UnknownNameError, match=r"known: paper, paper budget=16, .*recent budget=30"):
        bench.run("papers")


def test_only_some_workloads(bench):
    bench.run(workloads=["code"])
    assert bench.measured == [title for title in ALL if "code" in title]
    bench.run("paper", workloads=["prose"])
    assert bench.measured == [title for title in ALL if "prose, paper" in title]
    with pytest.raises(UnknownNameError, match="unknown workload of the page 'chat'; known: code, prose"):
        bench.run(workloads=["chat"])


def test_two_runs_of_one_page_keep_each_others_records(bench):
    bench.write(workloads=["prose"])
    other = bench.read().results
    bench.run("recent")
    assert not other.records
    record = bench.read().results.records[0]
    bench.path.with_suffix(".json").write_text('{"format": 1, "records": []}')
    bench.run("paper")
    other.put(record, next(ask for _, _, ask in bench.read().asks() if record.answers(ask)))
    assert len(bench.read().results.records) == 3


def test_a_changed_page_measures_what_changed(bench):
    bench.run()
    bench.lines.clear()
    bench.write(grid={"budget": [16, 24]}, workloads=["prose"])
    bench.run("paper")
    assert bench.measured == ["prose, paper budget=24"]
    assert len(bench.read().results.records) == len(ALL) + 1
    bench.run()
    assert "dropped 6 records that the page no longer asks for" in bench.lines
    assert bench.measured == ["prose, recent budget=24"]
    bench.write(grid={"budget": [16, 24]}, workloads=["prose"], decode=21)
    bench.run()
    assert len(bench.measured) == 4


def test_a_new_label_needs_no_new_measurement(bench):
    bench.run()
    bench.lines.clear()
    bench.write(policies={"Recent tokens": {"selector": "recent"}, "paper": {"selector": "paper"}})
    bench.run()
    assert bench.measured == []
    assert "Recent tokens budget=16" in bench.path.read_text()


def test_other_weights_are_measured_anew(bench):
    bench.run()
    old = {record.key for record in bench.read().results.records}
    bench.lines.clear()
    bench.seed = 1
    bench.run()
    assert bench.measured == ALL
    records = bench.read().results.records
    assert len(records) == len(ALL)
    assert not old & {record.key for record in records}


def test_a_setting_that_came_later_must_have_its_default(bench):
    bench.run("recent")
    record = bench.read().results.records[0]
    ask = next(ask for _, _, ask in bench.read().asks())
    older = record.model_copy(deep=True)
    del older.asked["policy"]["repair"]
    assert record.answers(ask)
    assert older.answers(ask)
    bench.write(base={"repair": False})
    changed = next(ask for _, _, ask in bench.read().asks())
    assert not record.answers(changed)
    assert not older.answers(changed)


def test_temperatures_are_questions_of_their_own(bench):
    """What was measured before there were any was greedy."""
    drafts = {"measure": "drafts", "workloads": ["prose"], "grid": None, "plots": None, "compare": None}
    policies = {"greedy": {}, "drawn": {"temperature": 1.0}}
    bench.write(**drafts, policies=policies)
    greedy, drawn = bench.run().cells()
    assert greedy.result.equal
    assert drawn.result.equal
    assert drawn.result.accepted != greedy.result.accepted
    (_, _, cold), (_, _, warm) = bench.read().asks()
    older = bench.read().results.find(cold).model_copy(deep=True)
    del older.asked["temperature"]
    assert older.answers(cold)
    assert not older.answers(warm)
    bench.write(**{**drafts, "measure": "fidelity"}, policies=policies)
    with pytest.raises(SettingError, match="policy 'drawn': temperature: fidelity draws no answers; leave"):
        bench.read()


def test_a_page_may_read_a_text_of_its_own(bench):
    text = bench.path.with_name("mine.txt")
    text.write_text("The quick brown fox jumps over the lazy dog. " * 4, encoding="utf-8")
    bench.write(workloads=["mine.txt"], policies={"recent": {"selector": "recent"}}, grid={"budget": [16]})
    bench.run()
    assert bench.measured == ["mine.txt, recent budget=16"]
    text.write_text("A man, a plan, a canal: Panama. " * 8, encoding="utf-8")
    bench.run()
    assert bench.measured == ["mine.txt, recent budget=16"]
    text.write_text("Too short.", encoding="utf-8")
    with pytest.raises(PromptError, match=r"mine\.txt has 10 tokens; context and decode need 80"):
        bench.run()


class TestItsOwnSelector:
    FAMILIES = {"first": {"selector": "first"}, "recent": {"selector": "recent"}}  # noqa: RUF012

    def body(self, code=SELECTOR):
        return f"# P\n\n```python file=first.py{code}```\n\n<!-- results:begin -->\n<!-- results:end -->\n"

    def page(self, bench, code=SELECTOR):
        bench.write(self.body(code), policies=self.FAMILIES, grid={"budget": [16]}, workloads=["prose"])

    def test_it_lives_in_the_page(self, bench):
        self.page(bench)
        bench.run()
        assert bench.measured == ["prose, first budget=16", "prose, recent budget=16"]

    def test_changed_code_is_measured_anew_and_nothing_else(self, bench):
        self.page(bench)
        bench.run()
        bench.lines.clear()
        bench.edit("# P", "# P\n\nThe code moves down, which changes nothing.")
        bench.run()
        assert bench.measured == []
        bench.edit("-evidence", "evidence")
        bench.run()
        assert bench.measured == ["prose, first budget=16"]

    def test_it_may_lie_beside_the_page(self, bench):
        bench.path.with_name("own.py").write_text(SELECTOR, encoding="utf-8")
        bench.write(policies=self.FAMILIES, grid={"budget": [16]}, workloads=["prose"], plugins=["own.py"])
        bench.run()
        assert len(bench.measured) == 2
        bench.path.with_name("own.py").unlink()
        with pytest.raises(SettingError, match=r"cannot read plugin .*own\.py"):
            bench.read()

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ("register(", "register)", r"page\.md, line \d+: "),
            ("import dataclass\n", "import no_such\n", r"page\.md, line \d+: ImportError"),
            ('"first", First', '"paper", First', "already registered by plugin"),
        ],
    )
    def test_code_that_does_not_load_is_located(self, bench, old, new, told):
        self.page(bench, SELECTOR.replace(old, new))
        with pytest.raises(PluginError, match=told):
            bench.read()

    def test_code_that_fails_in_the_run_is_located(self, bench):
        self.page(bench, SELECTOR.replace("-evidence", "-evidense"))
        line = 1 + bench.path.read_text().splitlines().index(
            "        scores = -evidense.probabilities.mean(-2).cumsum(-1)"
        )
        with pytest.raises(PluginError) as error:
            bench.run()
        assert str(error.value) == (
            f"prose, first budget=16: {bench.path}, line {line}: NameError: name 'evidense' is not defined"
        )


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"policies": {"a": {"selector": "papr"}}}, SettingError, "policy 'a budget=16': unknown selector"),
        ({"base": {"kernel": "cuda"}}, SettingError, "policy 'recent budget=16': unknown kernel 'cuda'"),
        ({"context": 500}, PromptError, "window is 512; lower context or decode"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_measured(bench, changes, error, told):
    bench.write(**changes)
    with pytest.raises(error, match=told):
        bench.run()
    assert bench.measured == []


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no results file"),
        ("[]", "is no results file"),
        ('{"format": 0, "records": []}', "format 0"),
        ('{"format": 1, "records": [{"key": "x"}]}', "Field required"),
        ('{"format": 1}', "is no results file"),
    ],
)
def test_a_results_file_that_no_run_wrote(bench, text, told):
    bench.path.with_suffix(".json").write_text(text)
    with pytest.raises(SettingError, match=told) as error:
        Experiment.read(bench.path)
    assert "run the page again" in str(error.value)
