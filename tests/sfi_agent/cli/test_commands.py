"""Every command on a tiny model: what it prints, and one object with ``--json``."""

from __future__ import annotations

import io
import json
import re
import sys
from dataclasses import dataclass

import pytest
import torch

from sfi_agent import Policy, Registry, registry
from sfi_agent.cli import chat, options
from sfi_agent.cli.app import app
from sfi_agent.contracts import BoundaryDetector
from sfi_agent.errors import PromptTooLongError
from sfi_agent.events import Event
from sfi_agent.hookspecs import hookimpl
from sfi_agent.observers import FAILURES

GENERATED = {
    "text", "token_ids", "prompt_tokens", "completion_tokens", "mode", "slow_steps", "fast_steps", "drafted",
    "accepted", "kv_read_fraction", "prefill_seconds", "decode_tokens_per_second",
}  # fmt: skip
MEASURED = {"agree", "accept", "kl", "ppl_ratio", "kv_read_fraction", "slow_rate"}


def test_generate_reports_what_the_runtime_does(sfi, tiny, tiny_folder, shared):
    done = sfi("generate", "--prompt-file", "prompt.txt", "--model", tiny_folder, "--max-new-tokens", 9,
               "--mode", "dense", "--session", "s", "--json")  # fmt: skip
    prompt = shared.encode("What is a heap?")
    expected = shared.generate(
        prompt, policy=tiny.policy("dense"), sampling=tiny.sampling(9, ignore_eos=False)
    )
    assert done.object.keys() >= GENERATED
    assert done.object["token_ids"] == list(expected.token_ids)
    assert (done.object["prompt_tokens"], done.object["session"]) == (len(prompt), "s")
    assert done.err == ""


def test_generate_heeds_every_option(sfi, letters_folder):
    options = (
        "--raw --mode verified --selector recent --boundary newline --boundary interval --budget 0.25 "
        "--max-interval 5 --kernel torch --temperature 0.9 --top-p 0.9 --top-k 30 --repetition-penalty 1.1 "
        "--seed 7 --max-new-tokens 12 --device cpu --dtype float32 --json"
    )
    call = ("generate", "--prompt-file", "text.txt", "--model", letters_folder, *options.split())
    found = sfi(*call).object
    assert (found["mode"], found["prompt_tokens"]) == ("verified", len("A heap is a tree. " * 20))
    assert sfi(*call).object["token_ids"] == found["token_ids"]
    assert sfi(*call, "--seed", 8).object["token_ids"] != found["token_ids"]
    stopped = sfi(*call, "--stop", "never", "--stop", found["text"][4:6]).object
    assert stopped["finish_reason"] == "stop"
    assert found["text"].startswith(stopped["text"] + found["text"][4:6])


def test_generate_prints_the_text_and_counts_beside_it(sfi, tiny_folder):
    call = ("generate", "--prompt-file", "prompt.txt", "--model", tiny_folder, "--max-new-tokens", 9)
    plain, told = sfi(*call), sfi(*call, "--json").object
    assert plain.out == told["text"] + "\n"
    assert plain.err.startswith(f"{told['completion_tokens']} tokens (")


def test_compare(sfi, tiny_folder):
    call = ("compare", "--prompt-file", "text.txt", "--raw", "--model", tiny_folder, "--max-new-tokens", 6,
            "--repeat", 1, "--ignore-eos")  # fmt: skip
    found = sfi(*call, "--json").object
    for engine in ("transformers", "dense", "sfi", "verified"):
        assert found[engine].keys() >= GENERATED
        assert found[engine]["mode"] == engine
    assert found["verified_equals_dense"] is True
    assert "verified output equals dense output" in sfi(*call).out


def test_compare_shows_no_speed_where_nothing_was_decoded(sfi, tiny_folder):
    call = ("compare", "--prompt-file", "prompt.txt", "--model", tiny_folder, "--repeat", 1)
    shown = sfi(*call, "--max-new-tokens", 1).out
    assert (shown.count("–"), shown.count("%")) == (8, 0)


def test_fidelity(sfi, tiny_folder):
    options = "--prompt-tokens 60 --decode-tokens 9 --selector recent --budget 16 --boundary newline"
    call = ("eval", "fidelity", "--model", tiny_folder, "--text", "text.txt", *options.split())
    found = sfi(*call, "--json").object
    assert found.keys() >= MEASURED
    assert found["slow_rate"] < 1, "a short context is measured too"
    assert all(name in sfi(*call).out for name in MEASURED)


def test_plugins(sfi):
    found = sfi("plugins", "--json").object
    names = {entry["name"] for entry in found["selector"]}
    assert names >= {"paper", "top_mass", "recent", "snapkv"}
    assert found["auto_kernel"] == ("triton" if torch.cuda.is_available() else "grouped")
    assert all(name in sfi("plugins").out for name in ("snapkv", "punctuation", "grouped"))
    assert "``" not in json.dumps(found)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_list_of_plugins_fits_a_terminal(sfi, monkeypatch, columns):
    """Names stand alone at the left, where an eye and ``grep`` look for them, and no word is broken."""
    monkeypatch.setattr(options.out, "width", columns)
    shown = sfi("plugins").out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    names = {line[2:].split()[0] for line in lines if line.startswith("  ") and line[2:3].strip()}
    assert names >= {"balanced", "paper", "punctuation", "grouped"}
    assert {"policies of sfi_plugins", "kernels of sfi_kernels"} <= {*lines}
    words = shown.split()
    assert {"position_weight=0.7,", "repulsion=0.85", "boundaries=['punctuation',"} <= {*words}


def test_the_list_of_plugins_may_be_empty(sfi, monkeypatch):
    monkeypatch.setattr(registry, "default_registry", lambda: Registry(discover=False))
    assert sfi("plugins").status == 0


def test_plugins_say_what_policies_set(sfi, monkeypatch):
    @dataclass
    class Silent(BoundaryDetector):
        pass

    class Plugin:
        name = "mine"

        @hookimpl
        def sfi_register_policies(self, register):
            register("half", lambda: Policy(budget=0.5))
            register("broken", lambda: 1 / 0)

        @hookimpl
        def sfi_register_boundaries(self, register):
            register("silent", Silent)

    monkeypatch.setattr(registry, "default_registry", lambda: Registry([Plugin()]))
    found = sfi("plugins", "--json").object
    policies = {entry["name"]: entry for entry in found["policy"]}
    assert policies["exact"]["settings"] == {"mode": "verified"}
    assert policies["half"]["settings"] == {"budget": 0.5}
    assert policies["broken"]["unavailable"] == "division by zero"
    assert [entry["summary"] for entry in found["boundary"] if entry["name"] == "silent"] == [""]
    assert "mode=verified" in sfi("plugins").out


def test_an_observer_that_hears_no_more_is_a_problem(sfi, monkeypatch):
    class Fragile:
        name = "fragile"

        @hookimpl
        def sfi_on_event(self, event):
            raise ConnectionError("refused")

    found = Registry([Fragile()])
    for _ in range(FAILURES):
        found.observers.emit(Event(session="s", turn=1))
    monkeypatch.setattr(registry, "default_registry", lambda: found)
    told = "fragile: hears no more events: it failed on 10 in a row, the last with ConnectionError: refused"
    assert sfi("doctor", "--json").object["problems"] == [told]
    assert f"not in use: {told}\n" in sfi("plugins").out


def test_models(sfi, smollm2):
    (listed,) = sfi("models", "list", "--json").object["models"]
    assert (listed["name"], listed["folder"]) == ("smollm2-135m", str(smollm2))
    assert sfi("models", "pull", "--json").object == {"name": "smollm2-135m", "folder": str(smollm2)}
    assert str(smollm2) in sfi("models", "pull").out


def test_doctor(sfi, tiny_folder):
    found = sfi("doctor", "--model", tiny_folder, "--json").object
    assert found["model"]["agree"] == 1.0
    assert found["problems"] == []
    assert "smollm2-135m" in sfi("doctor").out
    shown = sfi("doctor", "--model", tiny_folder).out
    assert "agree 1" in shown
    assert re.search(r"largest_difference [0-9.e-]{1,9},", shown)


def piped(monkeypatch, text: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))


def test_chat(sfi, tiny_folder, monkeypatch):
    call = ("chat", "--model", tiny_folder, "--max-new-tokens", 6, "--system", "Be brief.")
    piped(monkeypatch, b"Hello\nAnd you?\n\nnever read\n")
    first, second = sfi(*call, "--json").object["turns"]
    assert second["reused_tokens"] > first["prompt_tokens"] // 2, "as much as the template leaves alone"
    piped(monkeypatch, b"Hello\nAnd you?\n")
    spoken = sfi(*call)
    assert spoken.out == f"{first['text']}\n{second['text']}\n"
    assert spoken.err.count("prompt tokens reused") == 2


def test_chat_tells_the_turns_before_a_refused_line(sfi, tiny, tiny_folder, monkeypatch):
    piped(monkeypatch, f"Hello\n{'word ' * tiny.window}\nAnd you?\n".encode())
    done = sfi("chat", "--model", tiny_folder, "--max-new-tokens", 6, "--json")
    assert done.status == 1
    assert "shorten the prompt" in done.err
    assert len(json.loads(done.out)["turns"]) == 1


def test_a_refused_line_leaves_the_conversation_as_it_was(tiny, runtime, capsys):
    conversation, other = (
        chat.Conversation(runtime, tiny.policy("dense"), tiny.sampling(9), None, quiet=True) for _ in range(2)
    )
    conversation.say("Hello")
    with pytest.raises(PromptTooLongError):
        conversation.say("word " * tiny.window)
    conversation.say("And you?")
    runtime.drop_session(chat.SESSION)
    other.say("Hello")
    other.say("And you?")
    assert [turn.token_ids for turn in conversation.turns] == [turn.token_ids for turn in other.turns]


def test_every_command_answers_help_and_takes_json(sfi):
    alone = ["generate", "chat", "compare", "plugins", "doctor"]
    brought = {"bus", "tail"}  # by other packages, once a command has run
    assert {command.name for command in app.registered_commands} - brought == set(alone)
    for name in (*alone, "eval fidelity", "models pull", "models list"):
        done = sfi(*name.split(), "--help")
        assert done.status == 0
        assert "--json" in done.out
