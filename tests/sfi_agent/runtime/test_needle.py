"""The memory's worth on a real model: a sentence 600 tokens back, found with an eighth of the context."""

from __future__ import annotations

import argparse
import asyncio
import collections
import inspect
import json
import logging
import pathlib
import random
import statistics
import subprocess
from types import FunctionType, ModuleType

import pytest

from sfi_agent import Policy, Runtime, Sampling

MODULES = (argparse, asyncio, collections, inspect, json, logging, pathlib, random, statistics, subprocess)
NEEDLE = (
    "The secret code word of the harbour master is walrus. "
    "The harbour master's name is Oliver Brown and he lives in Paris."
)
QUESTION = (
    "Question: What is the name of the harbour master, and where does he live?\n"
    "Answer: The harbour master's name is"
)
TOKENS = 1200


def docstrings(module: ModuleType) -> list[str]:
    """Of the classes and functions that a module of the standard library defines, as one line each."""
    members = [value for _, value in sorted(vars(module).items()) if isinstance(value, type | FunctionType)]
    own = [member for member in members if member.__module__.split(".")[0] == module.__name__]
    return [" ".join(member.__doc__.split()) for member in own if isinstance(member.__doc__, str)]


@pytest.fixture(scope="module")
def real(smollm2):
    with Runtime.load(smollm2) as runtime:
        yield runtime


@pytest.fixture(scope="module")
def prompt(real) -> list[int]:
    """Documentation with the needle in its middle, and the beginning of an answer about it."""
    hay = real.encode(" ".join(text for module in MODULES for text in docstrings(module)), raw=True)
    assert len(hay) > TOKENS
    needle, question = (real.encode(f"\n{text}", raw=True) for text in (f"{NEEDLE}\n", f"\n{QUESTION}"))
    return [*hay[: TOKENS // 2], *needle, *hay[TOKENS // 2 : TOKENS], *question]


def answer(real, prompt: list[int], **settings) -> str:
    policy = Policy.of(budget=0.125, **settings)
    # One session, so that the prompt is read once.
    result = real.generate(prompt, policy=policy, sampling=Sampling(max_new_tokens=8), session="needle")
    assert settings["mode"] == "dense" or result.kv_read_fraction < 0.2
    return result.text


def test_dense_attention_finds_it(real, prompt):
    assert "Oliver Brown" in answer(real, prompt, mode="dense")


def test_a_selected_memory_finds_it(real, prompt):
    """By ``snapkv``, which did so in every text tried; ``paper`` and ``top_mass`` in most of them."""
    assert "Oliver Brown" in answer(real, prompt, mode="sfi", selector="snapkv")


def test_the_recent_past_alone_does_not(real, prompt):
    """The first token comes from the prefill, which is dense; the rest only the memory can know."""
    assert "Brown" not in answer(real, prompt, mode="sfi", selector="recent")
