"""Retrieval tasks: they fit the length, hide what they ask for, and score what was found."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest

from sfi_agent import Policy, Runtime, Sampling
from sfi_agent.errors import PromptError
from sfi_agent.evaluate.retrieval import TASKS, sample
from sfi_agent.evaluate.retrieval.words import WORDS

LENGTHS = (1100, 4000)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("chat", [False, True])
def test_a_sample_nearly_fills_its_length(shared, name, length, chat):
    made = sample(TASKS[name], shared, length, seed=1, chat=chat)
    total = len(made.encode(shared, chat=chat)) + made.new_tokens
    assert length - 250 <= total <= length


@pytest.mark.parametrize("name", TASKS)
def test_seeds_decide(shared, name):
    one, same, other = (sample(TASKS[name], shared, 1500, seed=seed) for seed in (1, 1, 2))
    assert one == same
    assert one.answers != other.answers
    assert one.text[:100] != other.text[:100]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("seed", range(5))
def test_the_answers_are_in_the_text_and_not_in_the_question(shared, name, seed):
    made = sample(TASKS[name], shared, 3000, seed=seed)
    assert made.score(made.text) == 1
    assert made.score(made.question + made.lead) == 0


@pytest.mark.parametrize("name", TASKS)
def test_the_ideal_output_scores_1_and_fits(shared, name):
    puzzle = TASKS[name].make(Random(f"{name} 1"), 1500)
    made = sample(TASKS[name], shared, 1500, seed=1)
    assert made.answers == puzzle.answers
    assert made.score(puzzle.output) == 1
    assert len(shared.encode(puzzle.output, raw=True)) < made.new_tokens
    assert made.score(puzzle.output.replace(puzzle.answers[-1], "")) == pytest.approx(
        1 - 1 / len(puzzle.answers)
    )
    assert made.score("") == 0


def test_an_answer_counts_as_a_word_of_its_own(shared):
    made = replace(sample(TASKS["single_needle"], shared, 1000), answers=("12345", "apple"))
    assert made.score("12345, apple.") == 1
    assert made.score("x12345 apples") == 0
    assert made.score("It is 12345") == 0.5


def test_hidden_lines_keep_their_order_and_lie_apart(shared):
    made = sample(TASKS["variable_tracking"], shared, 4000)
    places = [made.text.index(f"to {name}." if i else f"in {name}.") for i, name in enumerate(made.answers)]
    assert places == sorted(places)
    assert places[-1] - places[0] > 500


def test_many_keys_grow_with_the_length(shared):
    counts = [
        len(re.findall("The special magic number", sample(TASKS["multi_key"], shared, length).text))
        for length in (2000, 4000, 20_000)
    ]
    assert counts == [20, 40, len(WORDS)]


def test_the_common_words_are_the_most_common(shared):
    made = sample(TASKS["aggregation"], shared, 4000)
    words = made.text.split(", ")
    ranked = sorted(set(words), key=words.count, reverse=True)
    assert set(ranked[:3]) == set(made.answers)
    assert words.count(ranked[2]) > 3 * words.count(ranked[3])


def test_chat_begins_the_answer_after_the_template(shared):
    made = sample(TASKS["single_needle"], shared, 1200, chat=True)
    text = shared.tokenizer.decode(made.encode(shared, chat=True))
    assert text.startswith("<bos>user: ")
    assert text.endswith(f"assistant:{made.lead.strip()}")


def test_what_does_not_fit(shared):
    with pytest.raises(
        PromptError, match=r"task 'multi_needle' needs a context of (\d+) tokens \(given 50\)"
    ) as e:
        sample(TASKS["multi_needle"], shared, 50)
    needed = int(re.search(r"of (\d+)", str(e.value))[1])
    assert len(sample(TASKS["multi_needle"], shared, needed).encode(shared)) < needed


def test_the_embedded_model_finds_a_needle(smollm2):
    """So that a score of 0 says something about a policy, not about the prompt."""
    with Runtime.load(smollm2) as runtime:
        made = sample(TASKS["single_needle"], runtime, 500)
        result = runtime.generate(
            made.encode(runtime),
            policy=Policy(mode="dense"),
            sampling=Sampling(max_new_tokens=made.new_tokens),
        )
    assert made.score(result.text) == 1
