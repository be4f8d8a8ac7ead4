"""kvpress' side of the comparison, in an environment of its own. See README.md.

Usage: python benchmarks/kvpress/press.py QUESTIONS ANSWERS MODEL_FOLDER [LENGTH]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from kvpress import ExpectedAttentionPress, KnormPress, SnapKVPress
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

PRESSES = {"SnapKV": SnapKVPress, "ExpectedAttention": ExpectedAttentionPress, "Knorm": KnormPress}
KEPT = {1024: (0.25, 0.5), 4096: (0.25,)}
"""Shares of the context that are kept, by its length."""


def main() -> None:
    """Answer the questions, of one length if it is given, that ANSWERS does not hold yet."""
    questions, answers, folder, *length = sys.argv[1:]
    asked = [
        one
        for one in json.loads(Path(questions).read_text(encoding="utf-8"))
        if not length or one["length"] == int(length[0])
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in ("kvpress", "torch", "transformers"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer, file = AutoTokenizer.from_pretrained(folder), Path(answers)
    given = json.loads(file.read_text(encoding="utf-8"))["answers"] if file.exists() else []
    answered = [(one["task"], one["length"], one["seed"]) for one in given]
    for number, one in enumerate(asked, 1):
        where = {name: one[name] for name in ("task", "length", "seed")}
        if tuple(where.values()) in answered:
            continue
        for by, press, known in ways(one["length"]):
            ids, read = answer(model, one, press, known=known)
            given.append({"by": by, **where, "text": tokenizer.decode(ids), "read": read})
        stated = {"versions": versions, "answers": given}
        file.write_text(json.dumps(stated, ensure_ascii=False), encoding="utf-8")
        print(f"{number} of {len(asked)}", file=sys.stderr)


def ways(length: int) -> Iterator[tuple[str, Any, bool]]:
    """Name, press, and whether the question is there when the context is compressed."""
    yield "transformers, dense", None, False
    for kept in KEPT[length]:
        for name, press in PRESSES.items():
            yield f"{name}, keeps {kept}", press(compression_ratio=1 - kept), False
        yield f"SnapKV knowing the question, keeps {kept}", SnapKVPress(compression_ratio=1 - kept), True


@torch.inference_mode()
def answer(model: Any, asked: dict[str, Any], press: Any, *, known: bool) -> tuple[list[int], float]:
    """Greedy tokens, and the share of dense attention's KV that their steps read.

    The press works while the context is read, as in kvpress' own pipeline; then come the question and
    the answer, at the positions that they would have without it.
    """
    whole = [*asked["context"], *asked["question"]]
    first = len(whole) - 1 if known else len(asked["context"])
    cache = DynamicCache()
    with press(model) if press else nullcontext():
        model.model(input_ids=torch.tensor([whole[:first]]), past_key_values=cache)
    gone = first - cache.get_seq_length()
    ends, ids, read = model.generation_config.eos_token_id, list[int](), list[float]()
    step, position = whole[first:], first
    while len(ids) < asked["new_tokens"]:
        places = torch.arange(position, position + len(step))[None]
        logits = model(
            input_ids=torch.tensor([step]), past_key_values=cache, position_ids=places, logits_to_keep=1
        ).logits
        position += len(step)
        if ids:  # the first token comes of the question, which both read
            read.append((position - gone) / position)
        ids.append(int(logits[0, -1].argmax()))
        step = ids[-1:]
        if ids[-1] in (ends if isinstance(ends, list) else [ends]):
            break
    return ids, fmean(read) if read else 1.0


if __name__ == "__main__":
    main()
