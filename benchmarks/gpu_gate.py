"""Whole models before any time is taken: ``python benchmarks/gpu_gate.py [--quick]``.

Three rows of a tiny random model, and of the embedded one on prose, decode together in float32: what mode
``dense`` gives must be what transformers' ``generate`` gives, token for token, and ``verified`` the same.
A failure ends ``make bench-gpu``. ``--quick`` is a trial on any machine, with shorter texts.
"""

from __future__ import annotations

import argparse
import sys

import torch
from rig import plain_tokenizer
from together import Turn, read, together
from transformers import AutoModelForCausalLM, Qwen3Config
from workload import MODEL, long_prompt

from sfi_agent import Runtime, Sampling
from sfi_agent.models.load import Loaded
from sfi_agent.policy import Policy
from sfi_agent.runtime.pages import PAGE

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS = 3
MEMORY = {"budget": 0.25, "recent": 32, "min_gap": 0, "dense_below": 0, "boundaries": ("interval",)}
DRAFT = {"max_draft": 8, "adaptive_draft": False}
POLICIES = {
    "dense": Policy.of(mode="dense"),
    "verified, by slow steps": Policy.of(mode="verified", selector="snapkv", **MEMORY, **DRAFT),
    "verified, by codes": Policy.of(mode="verified", selector="index", **MEMORY, **DRAFT),
}


def main() -> None:
    """Model after model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a trial on shorter texts")
    options = parser.parse_args()
    context, tokens = (200, 24) if options.quick else (3000, 128)
    tiny = tiny_model()
    check(tiny, [torch.randint(0, 500, (context,)).tolist() for _ in range(ROWS)], tokens)
    embedded = Runtime.load(MODEL, device=DEVICE, dtype="float32", kv_bytes=room(context + tokens))
    text = long_prompt(embedded, context + ROWS * PAGE)
    check(embedded, [text[PAGE * row : PAGE * row + context] for row in range(ROWS)], tokens)


def tiny_model() -> Runtime:
    """A random model of two layers in which four query heads share a KV head."""
    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, head_dim=64, max_position_embeddings=2**14, tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32).to(DEVICE).eval()
    return Runtime(Loaded("a tiny model", model, plain_tokenizer(512)), kv_bytes=room(4096))


def room(tokens: int) -> int | None:
    """Bytes of KV; a CPU's rows have caches of their own."""
    return ROWS * (tokens + 4 * PAGE) * 2**17 if DEVICE == "cuda" else None


def check(runtime: Runtime, prompts: list[list[int]], tokens: int) -> None:
    """End the program unless every policy answers as transformers does."""
    wanted = []
    with runtime.transformers() as model:
        for prompt in prompts:
            ids = torch.tensor([prompt], device=DEVICE)
            answer = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False,
                eos_token_id=None, pad_token_id=0,
            )  # fmt: skip
            wanted.append(tuple(answer[0, len(prompt) :].tolist()))
    for name, policy in POLICIES.items():
        turns = [Turn(prompt, policy, f"{name}-{row}") for row, prompt in enumerate(prompts)]
        read(runtime, turns)
        _, results = together(runtime, turns, Sampling.of(max_new_tokens=tokens, ignore_eos=True))
        for row, (found, right) in enumerate(zip(results, wanted, strict=True)):
            if found.token_ids != right:
                sys.exit(f"gate: row {row} of {runtime.name}, {name}, is not what transformers gives")
        fast = sum(result.fast_steps for result in results)
        print(f"gate: {runtime.name}, {name}: {ROWS} x {tokens} tokens as transformers', {fast} drafted")


if __name__ == "__main__":
    main()
