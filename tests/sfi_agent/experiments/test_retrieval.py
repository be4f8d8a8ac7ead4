"""Questions of kind ``retrieval``: counted as they are answered, beside dense attention."""

from __future__ import annotations

import pytest

from sfi_agent.errors import SettingError
from sfi_agent.experiments.measure.retrieval import RetrievalMeasurement, lengths


@pytest.fixture
def questions(bench):
    """A page of two tasks, three questions each."""
    tasks = ["single_needle", "multi_key"]
    bench.write(measure="retrieval", workloads=tasks, context=500, samples=3, plots=["scores"], compare={})
    return bench


def test_lengths():
    assert lengths(700) == (700,)
    assert lengths(1024) == (1024,)
    assert lengths(4096) == (1024, 2048, 4096)
    assert lengths(5000) == (1024, 2048, 4096, 5000)


def test_a_covering_policy_finds_what_dense_attention_finds(questions):
    questions.write(
        measure="retrieval",
        workloads=["multi_value"],
        context=500,
        samples=4,
        policies={"all": {"budget": 1.0}},
        grid=None,
        plots=None,
        compare={},
    )
    (cell,) = questions.run().cells()
    assert cell.result.policy == cell.result.dense
    assert (cell.result.gained, cell.result.lost) == (0, 0)
    assert (cell.result.lengths, cell.result.samples) == ((500,), 4)
    assert cell.result.kv_read_fraction == 1


def test_every_score_is_counted_beside_dense_attentions(questions, monkeypatch):
    """With an untrained model nothing is found, so a scripted score stands in for the answers' worth."""
    from sfi_agent.experiments.measure import retrieval

    original = retrieval._question

    def scripted(runtime, task, length, seed):
        asked = original(runtime, task, length, seed)
        return type(asked)(asked.prompt, asked.sampling, lambda text: len(set(text)) % 2)

    monkeypatch.setattr(retrieval, "_question", scripted)
    experiment = questions.run("recent")
    for cell in experiment.cells():
        found = cell.result
        assert 0 <= found.lost + found.gained <= 3
        assert found.policy[0] - found.dense[0] == pytest.approx(
            (found.gained - found.lost) / 3, abs=1e-5
        )  # results keep six digits


def test_an_unknown_task_is_named(questions):
    questions.write(measure="retrieval", workloads=["prose"], context=500, plots=None, compare={})
    with pytest.raises(
        SettingError, match=r"unknown workload of retrieval 'prose'; known: aggregation, .*tool_calls"
    ):
        questions.run()


def test_a_reading_is_the_prompts_of_all_questions(questions):
    experiment = questions.read()
    with questions.load(experiment) as runtime:
        found = RetrievalMeasurement().read(runtime, experiment.page, "single_needle", None)
    (asked,) = found.questions.values()
    assert sum(len(question.prompt) for question in asked) == len(found.tokens)
    assert all(len(question.prompt) + question.sampling.max_new_tokens <= 500 for question in asked)
    assert len({question.prompt for question in asked}) == 3
