"""The embedded model: the real one once, the rest on a tiny one that is as real."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from sfi_agent.errors import UnknownNameError
from sfi_agent.models import embedded
from sfi_agent.models.embedded import EMBEDDED, EmbeddedModel, ensure_embedded, list_cached
from sfi_agent.models.quiet import quiet_transformers

Offer = Callable[..., EmbeddedModel]


def contents(cache: Path) -> list[str]:
    """What lies in the cache, lock files aside."""
    return sorted(path.name for path in (cache / "models").glob("*") if not path.name.endswith(".lock"))


def test_the_embedded_model_is_what_its_entry_says(smollm2: Path) -> None:
    model = EMBEDDED["smollm2-135m"]
    config = AutoConfig.from_pretrained(smollm2)
    assert config.max_position_embeddings == model.window
    assert not hasattr(config, "quantization_config")
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer.decode(tokenizer("Zürich, 東京").input_ids) == "Zürich, 東京"
    assert tokenizer.chat_template
    with quiet_transformers():
        loaded = AutoModelForCausalLM.from_pretrained(smollm2)
    assert loaded.num_parameters() == model.parameters
    assert loaded.dtype.itemsize == 2


def test_a_cold_cache_downloads_and_converts(
    tiny: Offer, cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny()
    stages: list[str] = []
    folder = ensure_embedded("tiny", progress=stages.append)
    assert folder == cache / "models" / "tiny"
    assert [stage.split()[0] for stage in stages] == ["downloading", "converting"]
    assert capfd.readouterr() == ("", "")
    with quiet_transformers():
        assert AutoModelForCausalLM.from_pretrained(folder).config.hidden_size == 32
    assert AutoTokenizer.from_pretrained(folder)("abc").input_ids
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert contents(cache) == ["tiny"]


def test_a_warm_cache_does_nothing(tiny: Offer, shelf: Path) -> None:
    tiny()
    folder = ensure_embedded("tiny")
    shutil.rmtree(shelf)
    stages: list[str] = []
    assert ensure_embedded("tiny", progress=stages.append) == folder
    assert stages == []
    [cached] = list_cached()
    assert (cached.name, cached.path) == ("tiny", folder)
    assert cached.size > 10_000


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"'smollm2'; known: smollm2-135m\. Did you mean"):
        ensure_embedded("smollm2")


def test_leftovers_of_a_killed_process_are_removed(tiny: Offer, cache: Path) -> None:
    tiny()
    part = cache / "models" / ".tiny.abc.part"
    part.mkdir(parents=True)
    (part / "half").write_bytes(b"x")
    ensure_embedded("tiny")
    assert contents(cache) == ["tiny"]


@pytest.mark.parametrize(
    ("file", "how"),
    [("model.safetensors", "short"), ("config.json", "gone"), ("sfi-agent.json", "short")],
)
def test_a_damaged_folder_is_made_again(tiny: Offer, cache: Path, file: str, how: str) -> None:
    tiny()
    path = ensure_embedded("tiny") / file
    whole = path.read_bytes()
    path.unlink() if how == "gone" else path.write_bytes(whole[:20])
    assert list_cached() == []
    ensure_embedded("tiny")
    assert path.read_bytes() == whole
    assert contents(cache) == ["tiny"]


def test_another_source_is_converted_again(tiny: Offer) -> None:
    tiny()
    marker = ensure_embedded("tiny") / "sfi-agent.json"
    record = json.loads(marker.read_text())
    marker.write_text(json.dumps({**record, "sha256": "another"}))
    stages: list[str] = []
    ensure_embedded("tiny", progress=stages.append)
    assert len(stages) == 2


def test_concurrent_processes_make_it_once(tiny: Offer, cache: Path) -> None:
    entry = tiny()
    script = (
        "from sfi_agent.models.embedded import EMBEDDED, EmbeddedModel, ensure_embedded\n"
        f"EMBEDDED['tiny'] = {entry!r}\n"
        "print(ensure_embedded('tiny', progress=print))"
    )
    command = [sys.executable, "-c", script]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [worker.communicate(timeout=120)[0].splitlines() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert [said[-1] for said in lines] == [str(cache / "models" / "tiny")] * 2
    stages = [line.split()[0] for said in lines for line in said[:-1]]
    assert sorted(stages) in (["converting", "downloading"], ["converting", "downloading", "waiting"])
    assert contents(cache) == ["tiny"]


def test_a_second_caller_waits_for_the_first(
    tiny: Offer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny()
    started, go_on, real = threading.Event(), threading.Event(), embedded.convert_gguf

    def slowly(gguf: Path, target: Path) -> None:
        started.set()
        assert go_on.wait(60)
        real(gguf, target)

    monkeypatch.setattr(embedded, "convert_gguf", slowly)
    first = threading.Thread(target=ensure_embedded, args=("tiny",))
    first.start()
    assert started.wait(60)

    def waiting(line: str) -> None:
        stages.append(line)
        go_on.set()

    stages: list[str] = []
    ensure_embedded("tiny", progress=waiting)
    first.join()
    assert stages == ["waiting for another process that prepares tiny"]


def test_quiet_is_over_when_the_call_is() -> None:
    import transformers.modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    def state() -> tuple[object, ...]:
        return logging.get_verbosity(), logging.is_progress_bar_enabled(), reader.tqdm

    before = state()
    with quiet_transformers():
        assert not logging.is_progress_bar_enabled()
    assert state() == before
    with pytest.raises(RuntimeError), quiet_transformers():
        raise RuntimeError
    assert state() == before
