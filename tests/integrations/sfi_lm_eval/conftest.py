"""The harness offline, a tiny model in a folder, and three tasks on two documents."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.sfi_agent.conftest import Tiny

for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.setdefault(name, "1")  # before the harness reads them

DOCUMENTS = [
    {"text": "Each name refers to an object. ", "answers": ["Names do.", "Objects do."], "right": 0},
    {"text": "A block is a piece of text that runs as a unit. ", "answers": ["It runs.", "No."], "right": 1},
]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}Q?",
    "doc_to_choice": "{{answers}}",
    "doc_to_target": "right",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
WRITING = {
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "x",
    "generation_kwargs": {"until": ["Q"], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text * 20}}",
    "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Llama whose window is 512 tokens."""
    folder = tmp_path_factory.mktemp("tiny")
    Tiny().model().save_pretrained(folder)
    Tiny.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The tasks as the harness's configuration, on a file."""
    folder = tmp_path_factory.mktemp("tasks")
    file = Path(folder, "documents.jsonl")
    file.write_text("\n".join(map(json.dumps, DOCUMENTS)), encoding="utf-8")
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder / "cache")},
        "test_split": "test",
    }
    named = {"tiny_choice": CHOICE, "tiny_writing": WRITING, "tiny_rolling": ROLLING}
    return [{"task": name, **common, **task} for name, task in named.items()]
