"""Between a session in memory and what is stored of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sfi_agent.contracts import Stateful
from sfi_agent.runtime.kv import KVCache, LayerStore
from sfi_agent.runtime.session import Session
from sfi_agent.store.manifest import Layer, Segment, StoredSelector
from sfi_agent.store.tree import encode, on_host

PIECE_BYTES = 2**26
"""A segment has no more bytes of KV than this, which bounds what a save or a load holds twice."""


@dataclass(frozen=True)
class Piece:
    """Keys and values of the positions from ``first`` to ``stop``, by layer."""

    first: int
    stop: int
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A session at the end of a turn, copied to the host: the session may go on meanwhile.

    Attributes:
        facts: of the manifest, all but the files.
        kept: segments of the last save that still hold.
        pieces: the positions behind those, each piece for a segment of its own.
        state: every other tensor.
    """

    facts: dict[str, Any]
    kept: tuple[Segment, ...]
    pieces: tuple[Piece, ...]
    state: dict[str, Tensor]

    @property
    def length(self) -> int:
        """Positions of the KV."""
        return int(self.facts["length"])

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        held = [self.state, *(piece.tensors for piece in self.pieces)]
        return sum(tensor.nbytes for tensors in held for tensor in tensors.values())

    @classmethod
    def of(cls, session: Session, segments: tuple[Segment, ...], stable: int) -> Snapshot:
        """Copy what changed.

        Args:
            session: with no turn running.
            segments: of the last save.
            stable: positions from 0 on that are as those segments hold them.
        """
        kv = session.row.kv
        most = max(1, PIECE_BYTES // max(1, sum(store.position_bytes for store in kv.layers.values())))
        kept = keep(segments, min(stable, kv.length), kv.length, most)
        first = kept[-1].stop if kept else 0
        pieces = [
            Piece(start, stop, dict(kv_tensors(kv, start, stop)))
            for start in range(first, kv.length, most)
            for stop in [min(start + most, kv.length)]
        ]
        facts, state = _Facts(session).collected()
        return cls(facts, kept, tuple(pieces), state)


def keep(segments: tuple[Segment, ...], stable: int, length: int, most: int) -> tuple[Segment, ...]:
    """The segments whose positions need not be written again.

    Those below ``stable`` stay, save that a new segment takes in the ones before it that are no longer
    than itself, up to ``most`` positions: so a session has few, and each position is rewritten seldom
    (both grow with the logarithm of ``most``).
    """
    kept = [
        segment.model_copy(update={"stop": min(segment.stop, stable)})
        for segment in segments
        if segment.first < stable
    ]
    first = kept[-1].stop if kept else 0
    while kept and first < length:
        last = kept[-1]
        if last.stop - last.first > length - first or length - last.first > most:
            break
        first = kept.pop().first
    return tuple(kept)


def kv_tensors(kv: KVCache, first: int, stop: int) -> Iterator[tuple[str, Tensor]]:
    """Copies of the positions from ``first`` to ``stop`` on the host, by name."""
    for index, store in kv.layers.items():
        keys, values = store.span(first, stop)
        yield f"keys.{index}", on_host(keys)
        yield f"values.{index}", on_host(values)


class _Facts:
    """What a manifest says of a session, and the tensors beside its KV."""

    def __init__(self, session: Session) -> None:
        self._session, self._row = session, session.row
        self._tensors: dict[str, Tensor] = {}
        self._lost: list[str] = []

    def collected(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        session, kv = self._session, self._row.kv
        self._tensors["tokens"] = torch.tensor(session.tokens, dtype=torch.int64)
        self._queries()
        facts = {
            "id": session.id,
            "turns": session.turns,
            "tokens": len(session.tokens),
            "policy": None if session.policy is None else session.policy.model_dump(mode="json"),
            "length": kv.length,
            "exact": kv.exact,
            "stretched": kv.stretched,
            "layers": {index: _layer(store) for index, store in kv.layers.items()},
            "query_rows": self._row.queries.rows,
            "selector": self._selector(),
            "indexes": self._indexes(),
            "notes": session.notes,
        }
        return {**facts, "lost": "; ".join(self._lost)}, self._tensors

    def _queries(self) -> None:
        positions, layers = self._row.queries.held(self._row.kv.length)
        self._tensors["queries"] = torch.tensor(positions, dtype=torch.int64)
        self._tensors |= {f"queries.{layer}": on_host(held) for layer, held in layers.items()}

    def _selector(self) -> StoredSelector | None:
        if (kept := self._session.kept) is None:
            return None

        def stored() -> StoredSelector:
            plain = json.loads(json.dumps(kept.settings))
            return StoredSelector(
                name=kept.name, settings=plain, state=self._state(kept.selector, "selector")
            )

        found: StoredSelector | None = self._or_lost(f"selector {kept.name!r}", stored)
        return found

    def _indexes(self) -> dict[int, Any]:
        kept = {
            layer: self._or_lost(f"index of layer {layer}", partial(self._state, index, f"index.{layer}"))
            for layer, index in self._row.indexes.items()
        }
        return {layer: state for layer, state in kept.items() if state is not None}

    def _state(self, thing: Stateful, name: str) -> Any:
        layers = self._row.kv.layers
        device = next(iter(layers.values())).entry[0].device if layers else torch.device("cpu")
        tensors: dict[str, Tensor] = {}
        state = encode(thing.state(), name, device, tensors)
        self._tensors |= tensors
        return state

    def _or_lost(self, name: str, stored: Callable[[], Any]) -> Any:
        """What ``stored`` gives; None, and a remark, where a plugin keeps what cannot be stored."""
        try:
            return stored()
        except Exception as error:  # whatever a plugin's own state() raises, too
            self._lost.append(f"{name}: {' '.join(str(error).split()) or type(error).__name__}")
            return None


def _layer(store: LayerStore) -> Layer:
    spec = store.spec
    return Layer(scaling=spec.scaling, softcap=spec.softcap, window=spec.window)
