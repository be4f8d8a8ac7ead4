"""Our side of the comparison with kvpress: asks, answers, and scores everybody's answers. See README.md.

Usage: python benchmarks/kvpress/ours.py ask QUESTIONS
       python benchmarks/kvpress/ours.py answer QUESTIONS ANSWERS [LENGTH]
       python benchmarks/kvpress/ours.py score QUESTIONS ANSWERS...
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

sys.path.append(str(Path(__file__).parents[1]))

from record import RESULTS, append, provenance
from workload import MODEL

if TYPE_CHECKING:
    from sfi_agent import Runtime

TASKS = ("single_needle", "multi_key", "variable_tracking")
SAMPLES = {1024: 4, 4096: 2}
"""Questions of each task, by length of the context in tokens."""
BUDGETS = (0.25, 0.5)
KEY = ("task", "length", "seed")
"""What names a question."""


def main() -> None:
    """One of the three commands."""
    commands = {"ask": ask, "answer": answer, "score": score}
    if len(sys.argv) < 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])


def ask(questions: str) -> None:
    """Write the questions as token ids, context and question apart, so that both sides read the same."""
    from sfi_agent import Runtime

    with Runtime.load(MODEL, dtype="float32") as runtime:
        asked = [
            _question(runtime, task, length, seed)
            for length, samples in SAMPLES.items()
            for task in TASKS
            for seed in range(samples)
        ]
    Path(questions).write_text(json.dumps(asked), encoding="utf-8")


def _question(runtime: Runtime, task: str, length: int, seed: int) -> dict[str, Any]:
    from sfi_agent.evaluate.retrieval import TASKS as KNOWN
    from sfi_agent.evaluate.retrieval import sample

    asked = sample(KNOWN[task], runtime, length, seed=seed)
    prompt, text = asked.encode(runtime), runtime.encode(asked.text, raw=True)
    context = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, prompt, strict=False)))
    return {
        "task": task,
        "length": length,
        "seed": seed,
        "context": prompt[:context],
        "question": prompt[context:],
        "new_tokens": asked.new_tokens,
        "answers": asked.answers,
    }


def answer(questions: str, answers: str, length: str = "") -> None:
    """Answer with dense attention and with ``balanced``, as sfi-agent does by itself."""
    from sfi_agent import Runtime, Sampling

    asked = [one for one in _read(questions) if length in ("", str(one["length"]))]
    given = list[dict[str, Any]]()
    with Runtime.load(MODEL, dtype="float32") as runtime:
        balanced = runtime.registry.policy("balanced")
        ways = {"sfi-agent, dense": balanced.but(mode="dense")}
        ways |= {f"balanced, budget {budget}": balanced.but(budget=budget) for budget in BUDGETS}
        for number, one in enumerate(asked, 1):
            where = {name: one[name] for name in KEY}
            for by, policy in ways.items():  # in one session, so that the prompt is read once
                turn = runtime.generate(
                    [*one["context"], *one["question"]],
                    policy=policy,
                    sampling=Sampling(max_new_tokens=one["new_tokens"]),
                    session="kvpress",
                )
                given.append({"by": by, **where, "text": turn.text, "read": turn.kv_read_fraction})
            runtime.drop_session("kvpress")
            print(f"{number} of {len(asked)}", file=sys.stderr)
    stated = {"versions": provenance()["versions"], "answers": given}
    Path(answers).write_text(json.dumps(stated, ensure_ascii=False), encoding="utf-8")


def score(questions: str, *answers: str) -> None:
    """Append scores to ``benchmarks/results/kvpress.csv``: a row for each way, task and length."""
    from sfi_agent.evaluate.retrieval import Sample

    asked = {
        tuple(one[name] for name in KEY): Sample("", "", "", tuple(one["answers"]), one["new_tokens"])
        for one in _read(questions)
    }
    for file in answers:
        stated, found = _read(file), defaultdict[tuple[str, str, int], list[tuple[float, float]]](list)
        for one in stated["answers"]:
            worth = asked[tuple(one[name] for name in KEY)].score(one["text"])
            found[one["by"], one["task"], one["length"]].append((worth, one["read"]))
        for (by, task, length), scored in found.items():
            worth, read = (fmean(column) for column in zip(*scored, strict=True))
            row = {"by": by, "task": task, "length": length, "questions": len(scored)}
            told = {**provenance(), "versions": stated["versions"]}
            append(
                RESULTS / "kvpress.csv",
                {**told, **row, "score": round(worth, 3), "kv_read": round(read, 3)},
            )


def _read(file: str) -> Any:
    return json.loads(Path(file).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
