"""Each mistake on the command line ends in one line on stderr, nothing on stdout, a status that is not 0."""

from __future__ import annotations

import io
import pwd
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sfi_agent import Registry, Runtime, registry
from sfi_agent.cli import main
from sfi_agent.contracts import BoundaryDetector, Selector
from sfi_agent.environment import environment
from sfi_agent.evaluate import transformers_run
from sfi_agent.hookspecs import hookimpl
from sfi_agent.policy import Policy
from sfi_agent.runtime import runtime

GENERATE = ("generate", "--prompt-file", "prompt.txt")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--mode", "fast"), "must be one of dense, sfi, verified"),
        (("--selector", "papr"), "unknown selector 'papr'; known: .*snapkv"),
        (("--boundary", "newlin"), "unknown boundary 'newlin'; known: .*newline"),
        (("--kernel", "cuda"), "unknown kernel 'cuda'; known: .*grouped"),
        (("--budget", "0"), "number of positions from 1 on"),
        (("--budget", "-4"), "number of positions from 1 on"),
        (("--budget", "1.5"), r"fraction of the context in \(0, 1]"),
        (("--budget", "half"), r"positions \(512\) or a fraction of the context \(0.125\)"),
        (("--max-interval", "0"), "max_interval"),
        (("--max-new-tokens", "0"), "max_new_tokens"),
        (("--max-new-tokens", "600"), "window is 512; ask for at most 479 new tokens"),
        (("--temperature", "-1"), "temperature"),
        (("--top-p", "2"), "top_p"),
        (("--device", "gpu"), "must be auto, cpu, cuda"),
        (("--device", "meta"), "must be auto, cpu, cuda"),
        (("--store", "~nobody-here/x", "--session", "a"), "folder in '~nobody-here/x' is not known"),
        (("--dtype", "float8"), "unknown dtype 'float8'"),
        (("--temprature", "1"), r"--temprature.*see sfi-agent generate --help"),
        (("--seed", "many"), "--seed.*see sfi-agent generate --help"),
    ],
    ids=str,
)
@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_settings(sfi, tiny_folder, given, said, json):
    assert re.search(said, sfi(*GENERATE, "--model", tiny_folder, *given, *json).refusal)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; put a prompt into it"),
        (b" \n\t", "is empty; put a prompt into it"),
        (b"caf\xe9", r"is not UTF-8 text \(byte 3\); convert it to UTF-8"),
        (b"word " * 200, "window is 512; shorten the prompt to 384 tokens"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "compare"])
def test_prompts(sfi, tiny_folder, command, content, said):
    Path("prompt.txt").write_bytes(content)
    assert re.search(said, sfi(command, "--prompt-file", "prompt.txt", "--model", tiny_folder).refusal)


def test_a_prompt_file_that_is_none(sfi, tiny_folder):
    assert "cannot read nowhere.txt: No such file" in sfi("generate", "--prompt-file", "nowhere.txt").refusal
    assert "cannot read ." in sfi("generate", "--prompt-file", ".").refusal


@pytest.mark.parametrize("given", [("--selector", "papr"), ("--max-new-tokens", "600")])
def test_compare_refuses_before_it_measures(sfi, tiny_folder, monkeypatch, given):
    monkeypatch.setattr(transformers_run, "transformers_run", lambda *_: pytest.fail("transformers ran"))
    assert sfi("compare", "--prompt-file", "prompt.txt", "--model", tiny_folder, *given).refusal


@pytest.mark.parametrize(
    "command", ["generate --prompt-file prompt.txt", "compare --prompt-file prompt.txt", "chat", "doctor"]
)
class TestModels:
    """A model that cannot be had, in every command that takes one."""

    def refusal(self, sfi, command: str, model: object) -> str:
        return sfi(*command.split(), "--model", model).refusal

    def test_unknown(self, sfi, command):
        assert "unknown model 'smollm'; known: smollm2-135m" in self.refusal(sfi, command, "smollm")

    def test_half_a_download(self, sfi, command, tiny_folder):
        weights = Path(shutil.copytree(tiny_folder, "half"), "model.safetensors")
        weights.write_bytes(weights.read_bytes()[:9999])
        assert "half a download: fetch it again" in self.refusal(sfi, command, "./half")

    def test_a_corrupt_gguf(self, sfi, command):
        Path("bad.gguf").write_bytes(b"GGUF" + b"junk" * 50)
        assert "damaged or half a download: fetch it again" in self.refusal(sfi, command, "bad.gguf")

    def test_no_full_attention(self, sfi, command, tiny):
        tiny.model("mistral", sliding_window=16).save_pretrained("sliding")
        tiny.tokenizer.save_pretrained("sliding")
        assert "no full-attention layer" in self.refusal(sfi, command, "./sliding")


def test_what_fidelity_cannot_read(sfi, tiny_folder):
    call = ("eval", "fidelity", "--model", tiny_folder, "--text", "text.txt")
    assert (
        "give a longer text or ask for fewer"
        in sfi(*call, "--prompt-tokens", 400, "--decode-tokens", 9).refusal
    )
    assert "see sfi-agent eval fidelity --help" in sfi(*call, "--prompt-tokens", 0).refusal
    long = sfi(*call, "--prompt-tokens", 9, "--decode-tokens", 9, "--budget", "2.5")
    assert "a fraction of the context in (0, 1]" in long.refusal


def test_models_and_commands_that_are_none(sfi):
    assert "unknown embedded model 'llama'; known: smollm2-135m" in sfi("models", "pull", "llama").refusal
    assert "No such command 'generat'" in sfi("generat").refusal
    assert "see sfi-agent generate --help" in sfi("generate").refusal


@pytest.mark.parametrize("call", [(), ("eval",), ("models",)])
def test_no_command_shows_the_help(sfi, call):
    done = sfi(*call)
    assert done.status == 2
    assert "Usage: sfi-agent" in done.out + done.err
    assert "error" not in done.err


def test_without_a_home_folder_only_the_cache_is_missed(sfi, tiny_folder, monkeypatch):
    """As where a container's user has no entry among the users."""

    def unknown(user):
        raise KeyError(user)

    for name in ("HOME", "SFI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    environment.cache_clear()
    assert "set SFI_CACHE to one" in sfi("models", "list").refusal
    assert sfi(*GENERATE, "--model", tiny_folder, "--max-new-tokens", "1", "--json").object
    environment.cache_clear()


def test_a_name_that_is_not_utf_8(monkeypatch):
    """What is written is UTF-8 all the same, and the byte of the name can be seen."""
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(written, encoding="ascii"))
    monkeypatch.setattr(sys, "argv", ["sfi-agent", "generate", "--prompt-file", "caf\udce9"])
    with pytest.raises(SystemExit):
        main()
    assert written.getvalue() == b"error: cannot read caf\\udce9: No such file or directory\n"


def test_a_chat_whose_input_is_closed_ends(sfi, tiny_folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert sfi("chat", "--model", tiny_folder, "--json").object == {"turns": []}


def test_a_line_of_chat_that_is_not_utf_8(sfi, tiny_folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n")))
    assert "not UTF-8" in sfi("chat", "--model", tiny_folder).refusal


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        MemoryError("no"),
    ],
)
def test_out_of_memory(sfi, tiny_folder, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(Runtime, "generate", fail)
    monkeypatch.setattr(Runtime, "stream", fail)
    said = sfi(*GENERATE, "--model", tiny_folder).refusal
    assert "out of memory" in said
    assert "use a shorter context, a smaller model, or --dtype bfloat16" in said


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_a_full_disk(tiny_folder, tmp_path, json):
    (tmp_path / "prompt.txt").write_text("What is a heap?")
    command = [sys.executable, "-m", "sfi_agent", *GENERATE, "--model", tiny_folder, *json]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("error: the system would not read or write: ")


class Broken:
    """A plugin whose selectors and whose detector fail at their first turn."""

    name = "broken"

    @hookimpl
    def sfi_register_selectors(self, register):
        fails = {"refresh": lambda *given: {}["no such key"]}
        register("broken", type("Fails", (Selector,), fails))
        fails |= {"reranks": True, "evidence_rows": 0, "rerank": fails["refresh"]}
        register("anew", type("FailsAnew", (Selector,), fails))

    @hookimpl
    def sfi_register_boundaries(self, register):
        register("broken", type("Fails", (BoundaryDetector,), {"observe": lambda *given: [].index(3)}))

    @hookimpl
    def sfi_register_policies(self, register):
        register("short", lambda: Policy(dense_below=0, recent=16, budget=16))


@pytest.mark.parametrize(
    ("option", "name", "said"),
    [
        ("selector", "broken", "KeyError: 'no such key'; raised while selector 'broken' chose the memory"),
        ("selector", "anew", "KeyError: 'no such key'; raised while selector FailsAnew chose positions anew"),
        ("boundary", "broken", "ValueError: 3 is not in list; raised by boundary 'broken'"),
    ],
)
def test_what_a_plugin_raises(sfi, tiny_folder, monkeypatch, option, name, said):
    monkeypatch.setattr(registry, "default_registry", lambda: Registry([Broken()]))
    monkeypatch.setattr(runtime, "default_registry", registry.default_registry)
    Path("prompt.txt").write_text("What is a heap? " * 20)
    broken = (*GENERATE, "--model", tiny_folder, "--policy", "short", f"--{option}", name)
    assert sfi(*broken).err == f"error: {said}; `python -X dev -m sfi_agent ...` shows where\n"
    monkeypatch.setattr(sys, "flags", SimpleNamespace(dev_mode=True))
    with pytest.raises((KeyError, ValueError)):
        sfi(*broken)


def test_an_error_of_another_kind_is_not_taken_for_it(sfi, tiny_folder, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("shapes differ")

    monkeypatch.setattr(Runtime, "stream", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        sfi(*GENERATE, "--model", tiny_folder)
