"""Agreement of policies with dense attention: ``python benchmarks/fidelity.py [--model M] [--quick]``.

Teacher-forced on every workload. Prints a table and appends every row to
``benchmarks/results/fidelity.csv``. On a CPU the whole grid takes an hour or two; on a GPU minutes.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import product

from record import RESULTS, append, provenance
from rich.console import Console
from rich.table import Table
from workload import MODEL

from sfi_agent import Policy, Runtime
from sfi_agent.evaluate.fidelity import Reference, fidelity
from sfi_agent.evaluate.workloads import WORKLOADS, workload

SELECTORS = ("recent", "paper", "top_mass", "snapkv")
SHOWN = ("agree", "accept", "kl", "kv_read_fraction", "slow_rate")


def main() -> None:
    """Run the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--budget", type=float, default=0.125)
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing recorded: does it run?")
    options = parser.parse_args()
    prompt, decode = (600, 10) if options.quick else (6000, 600)
    runtime = Runtime.load(options.model, dtype=options.dtype)
    table = Table("text", "selector", "repair", *SHOWN)
    texts = {name: workload(name, runtime, prompt + decode) for name in WORKLOADS}
    dense = {name: Reference.read(runtime, tokens, prompt) for name, tokens in texts.items()}
    for name, selector, repair in product(texts, SELECTORS, (False, True)):
        policy = Policy.of(selector=selector, repair=repair, budget=options.budget)
        found = fidelity(runtime, texts[name], prompt, policy, reference=dense[name])
        row = {
            "text": name,
            "selector": selector,
            "repair": repair,
            "budget": options.budget,
            **asdict(found),
        }
        table.add_row(name, selector, str(repair), *(f"{row[field]:.3f}" for field in SHOWN))
        if not options.quick:
            append(
                RESULTS / "fidelity.csv",
                {**provenance(), "model": options.model, "dtype": options.dtype, **row},
            )
    Console().print(table)


if __name__ == "__main__":
    main()
