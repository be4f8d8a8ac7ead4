"""Sessions made of numbers, without a model: what they hold follows from a seed and a turn."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from sfi_agent import Policy
from sfi_agent.contracts import LayerSpec
from sfi_agent.runtime.session import KeptSelector, Session
from sfi_agent.store.manifest import ModelIdentity
from sfi_agent.store.store import SessionStore
from sfi_plugins.selectors.h2o import H2OSelector

IDENTITY = ModelIdentity(name="numbers", dtype="float32", weights="w", tokenizer="t")
LAYERS, HEADS, DIM = 2, 2, 4


def value(seed: int, position: int, salt: int) -> float:
    """What a position holds: a function of the seed and itself, so that a mix-up shows."""
    return float((seed * 7919 + position * 104729 + salt * 1299709) % 65521)


@dataclass
class Numbers:
    """A session that grows turn by turn.

    Attributes:
        seed: of its contents.
    """

    seed: int
    id: str = "numbers"

    def __post_init__(self) -> None:
        self.session = Session(self.id)
        self.selector = H2OSelector()
        self.epochs: list[int] = []  # of each position: in which turn it was written

    def turn(self, keep: int, new: int) -> None:
        """Cut the history to ``keep`` positions and add ``new``."""
        session, row = self.session, self.session.row
        session.begin([*session.tokens[:keep], -1], Policy(), self.selector, stretched=False)
        self.epochs = [*self.epochs[:keep], *[session.turns] * new]
        if new:
            for layer in range(LAYERS):
                cells = [
                    [value(self.seed, position, session.turns * 10 + layer)] * DIM
                    for position in range(keep, keep + new)
                ]
                keys = torch.tensor(cells).expand(HEADS, -1, -1)
                row.kv.write(layer, keys, -keys, LayerSpec(0.5))
            row.kv.commit(new, fast=False)
        session.tokens, session.notes = self.tokens(), {"turn": session.turns}
        self.selector._mass = {0: torch.tensor([[float(session.turns)] * max(1, len(self.epochs))])}

    def tokens(self) -> list[int]:
        return [int(value(self.seed, i, epoch)) for i, epoch in enumerate(self.epochs)]

    def check(self, loaded: Session) -> None:
        """Assert that ``loaded`` is this session, every number of it."""
        kv = loaded.row.kv
        assert loaded.turns == self.session.turns
        assert loaded.tokens == self.tokens()
        assert loaded.notes == {"turn": loaded.turns}
        assert kv.length == len(self.epochs)
        for layer in range(LAYERS if self.epochs else 0):
            expected = torch.tensor(
                [value(self.seed, i, epoch * 10 + layer) for i, epoch in enumerate(self.epochs)]
            )
            keys, values = kv.layers[layer].keys[:, : kv.length], kv.layers[layer].values[:, : kv.length]
            assert torch.equal(keys, expected[None, :, None].expand_as(keys))
            assert torch.equal(values, -keys)
        assert isinstance(loaded.kept, KeptSelector)
        mass = loaded.kept.selector._mass[0]
        assert torch.equal(mass, torch.full_like(mass, loaded.turns))


def make(name, settings):
    assert name == "index", "the policy's default, under which the numbers' selector is kept"
    return H2OSelector()


def load(store: SessionStore, id: str = "numbers", identity: ModelIdentity = IDENTITY) -> Session:
    """The stored session."""
    session = Session(id)
    with store.open(id) as stored:
        assert stored.load(session, identity, torch.device("cpu"), make) == ""
    return session


def save(store: SessionStore, numbers: Numbers, identity: ModelIdentity = IDENTITY) -> None:
    """One save, through a handle of its own."""
    with store.open(numbers.id) as stored:
        stored.save(stored.snapshot(numbers.session), identity)


def grown(seed: int = 1, turns: int = 3, id: str = "numbers") -> Numbers:
    """A session after some turns, never saved."""
    source, numbers = random.Random(seed), Numbers(seed, id)
    for _ in range(turns):
        length = len(numbers.epochs)
        numbers.turn(source.randint(length // 2, length), source.randint(1, 40))
    return numbers
