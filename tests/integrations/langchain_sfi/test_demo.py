"""The demo on the tiny model: the whole of it, in a second."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from langchain_core.messages import AIMessage
from rich.console import Console

from langchain_sfi.demo import __main__ as demo
from langchain_sfi.demo.dialogue import Dialogue, finding, verdict
from langchain_sfi.demo.document import library_manual
from langchain_sfi.demo.table import Row, Steps, TimedTurn, comparison
from sfi_agent import Policy, Runtime, Sampling


def test_it_runs_to_its_table(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "shared_runtime", lambda model: runtime)
    out = StringIO()
    demo.run(demo._options(["--tokens", "400", "--max-tokens", "12"]), Console(file=out, width=100))
    shown = out.getvalue()
    assert "What is the special magic number?" in shown
    assert re.match(r"(.*: \d+ s\n)?policy fast, .* minutes; fewer --tokens make it shorter\n", shown)
    for name in ("transformers", "dense", "sfi", "verified"):
        assert f"│ {name}" in shown
    assert "verified equals dense: yes" in shown
    assert "full attention itself misread it" in shown  # a model of random weights
    (first, of_first), (second, of_second) = re.findall(r"read (\d+) of (\d+) prompt tokens anew", shown)
    assert first == of_first
    assert int(second) < 100 < int(of_second)


@pytest.mark.parametrize("model", ["/no/such/model", "/no/such/[/model]"])
def test_an_error_is_one_line_and_a_status(capsys: pytest.CaptureFixture[str], model: str) -> None:
    assert demo.main(["--model", model]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("error:")
    assert model in said
    assert "\n" not in said


def test_too_many_tokens_are_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    with monkeypatch.context() as patched:
        patched.delattr(demo, "shared_runtime")
        assert demo.main(["--tokens", "20000"]) == 1
    said, out = capsys.readouterr()[::-1]
    assert out == ""
    assert "--tokens: must be at most 7968 for a model that reads 8192 tokens" in said
    monkeypatch.setattr(demo, "shared_runtime", lambda model: runtime)
    assert demo.main(["--model", "other", "--tokens", "4000"]) == 1
    assert "--tokens: must be at most 3872 for a model that reads 4096 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "least"), [("--tokens", 100), ("--max-tokens", 1)])
def test_too_few_tokens_are_refused_before_anything_is_loaded(capsys, monkeypatch, option, least) -> None:
    monkeypatch.delattr(demo, "shared_runtime")
    assert demo.main([option, "0"]) == 1
    assert f"{option}: must be at least {least} (given 0)" in capsys.readouterr().err


def test_a_document_says_where_there_are_fewer_tokens_than_asked_for() -> None:
    whole = library_manual(10**7, len)
    assert f"{whole.tokens} tokens of the standard library's own documentation (10000000 were" in str(whole)
    assert "asked for" not in str(library_manual(3000, len))


def test_the_document_has_the_length_asked_for_and_the_line(runtime: Runtime) -> None:
    document = library_manual(3000, lambda text: len(text), magic=4711)
    assert 2800 < document.tokens < 3100
    assert document.text.count("The special magic number is: 4711.") == 1
    before, after = document.text.split("The special magic number is: 4711.")
    assert len(before) > 2 * len(after) > 600


def test_speeds_and_shares_are_weighed_by_tokens() -> None:
    turns = (
        TimedTurn(11, 1.0, 10.0, Steps(slow=1, fast=9, kv_read_fraction=0.1)),
        TimedTurn(31, 2.0, 10 / 3, Steps(slow=2, fast=28, kv_read_fraction=0.5)),
    )
    row = Row("sfi", turns)
    assert row.tokens_per_second == pytest.approx(4.0)
    assert row.steps == ("3", "37", "40%")
    assert len(comparison([row], "fast").columns) == 7


@pytest.mark.parametrize(
    ("dense", "sfi", "said"),
    [
        ("It is 4711.", "4711", "the number, 4711, was found in every mode"),
        ("It is 4711.", "It is 42.", "the number, 4711, was found in mode dense, and not in sfi"),
        ("It is 42.", "4711", "the number was 4711: full attention itself misread it"),
    ],
)
def test_it_says_who_found_the_number(dense: str, sfi: str, said: str) -> None:
    answers = {mode: Dialogue(("?",), (AIMessage(text),)) for mode, text in (("dense", dense), ("sfi", sfi))}
    assert finding(4711, answers).startswith(said)


def test_the_verdict_says_where_sessions_part_and_whether_it_was_a_tie(runtime: Runtime) -> None:
    tokens = runtime.encode("Hi, what is a heap?")
    continued = runtime.generate(tokens, policy=Policy(mode="dense"), sampling=Sampling(max_new_tokens=8))
    generated = list(continued.token_ids)
    wrong = [*generated[:4], (generated[4] + 1) % 256, *generated[5:]]
    dense = [*tokens, *generated]
    same = verdict(runtime, [*tokens, *generated], dense)
    assert same == "verified equals dense: yes, token for token in both turns"
    said = verdict(runtime, [*tokens, *wrong], dense)
    assert f"no, they part at token {len(tokens) + 4} of the conversation, NOT a tie" in said


def test_a_dialogue_asks_what_has_no_answer_yet() -> None:
    asked = Dialogue(("Hi", "And then?"))
    assert [message.content for message in asked.prompt] == ["Hi"]
    answered = asked.answered(AIMessage("one"))
    assert [message.content for message in answered.prompt] == ["Hi", "one", "And then?"]
