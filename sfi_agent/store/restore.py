"""From a stored session's files to a session in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sfi_agent.contracts import KeyIndex, LayerSpec, Selector
from sfi_agent.errors import SessionCorruptError
from sfi_agent.policy import Policy
from sfi_agent.runtime.kv import ROOM, KVCache, LayerKV, empty
from sfi_agent.runtime.queries import RecentQueries
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.session import KeptSelector, MakeSelector, Session
from sfi_agent.store.files import read_checked
from sfi_agent.store.manifest import Manifest
from sfi_agent.store.snapshot import Piece
from sfi_agent.store.tree import decode


def restore(
    session: Session, manifest: Manifest, folder: Path, device: torch.device, make: MakeSelector
) -> str:
    """Give a new session what is stored; it is changed only once everything has been read.

    What its sparse memory is made of comes first, and is checked before any key or value is read.

    Args:
        session: without a turn so far.
        manifest: of ``folder``.
        device: where the model is.
        make: makes a selector by name and settings, as the registry does.

    Returns:
        what begins anew because it could not be stored or put back, in words; empty if nothing.

    Raises:
        SessionCorruptError: a file is not what was written.
        OSError: a file cannot be read.
    """
    tensors = _tensors(folder, manifest.state, manifest)
    tokens, lost = tensors["tokens"].tolist(), [manifest.lost] if manifest.lost else []
    queries = RecentQueries(manifest.query_rows)
    held = {int(n.partition(".")[2]): t.to(device) for n, t in tensors.items() if n.startswith("queries.")}
    queries.put(tensors["queries"].tolist(), held)
    kept = _selector(manifest, device, tensors, make, lost)
    indexes = _indexes(manifest, device, tensors, kept.selector, lost) if kept else {}
    policy = None if manifest.policy is None else Policy.of(**manifest.policy)
    del tensors, held  # before the keys and values need room on the host
    session.row = Row(kv=_cache(manifest, folder, device), queries=queries, indexes=indexes)
    session.tokens, session.turns = tokens, manifest.turns
    session.policy, session.kept, session.notes = policy, kept, dict(manifest.notes)
    return "; ".join(lost)


def fill(kv: KVCache, specs: Mapping[int, LayerSpec], pieces: Iterable[Piece], device: torch.device) -> None:
    """Put positions into a cache that has none of its layers yet, with room for an answer.

    Args:
        kv: its length, and what else is known of it.
        specs: of the layers.
        pieces: of their KV, on the host; no more than one of them is in memory twice.
        device: where the model is.
    """
    for piece in pieces:
        for index, spec in specs.items():
            keys, values = piece.tensors[f"keys.{index}"], piece.tensors[f"values.{index}"]
            if (store := kv.layers.get(index)) is None:
                room = kv.length + ROOM
                store = LayerKV(empty(keys, room, device), empty(values, room, device), spec)
                kv.layers[index] = store
            used = piece.stop - piece.first
            store.keys[:, piece.first : piece.stop] = keys[:, :used]
            store.values[:, piece.first : piece.stop] = values[:, :used]


def _cache(manifest: Manifest, folder: Path, device: torch.device) -> KVCache:
    kv = KVCache({}, manifest.length, manifest.exact, manifest.stretched, manifest.length)
    specs = {index: LayerSpec(of.scaling, of.softcap, of.window) for index, of in manifest.layers.items()}
    pieces = (Piece(of.first, of.stop, _tensors(folder, of.file, manifest)) for of in manifest.segments)
    fill(kv, specs, pieces, device)
    return kv


def _tensors(folder: Path, name: str, manifest: Manifest) -> dict[str, Tensor]:
    try:
        return load(read_checked(folder / name, manifest.files[name]))
    except SafetensorError as error:  # its checksum is right, so another program made it
        raise SessionCorruptError(f"{name} is no safetensors file: {error}") from None


def _selector(
    manifest: Manifest,
    device: torch.device,
    tensors: Mapping[str, Tensor],
    make: MakeSelector,
    lost: list[str],
) -> KeptSelector | None:
    if (stored := manifest.selector) is None:
        return None
    try:
        selector = make(stored.name, stored.settings)
        selector.restore(decode(stored.state, device, tensors))
    except Exception as error:  # it may be another version of the plugin, or none
        lost.append(f"selector {stored.name!r}: {' '.join(str(error).split())}")
        return None
    return KeptSelector(stored.name, stored.settings, selector)


def _indexes(
    manifest: Manifest,
    device: torch.device,
    tensors: Mapping[str, Tensor],
    selector: Selector,
    lost: list[str],
) -> dict[int, KeyIndex]:
    indexes: dict[int, KeyIndex] = {}
    for layer, state in manifest.indexes.items():
        try:
            if (index := selector.index(layer)) is None:
                raise ValueError(f"{type(selector).__name__} makes none for it")
            index.restore(decode(state, device, tensors))
            indexes[layer] = index
        except Exception as error:  # as above
            lost.append(f"index of layer {layer}: {' '.join(str(error).split())}")
    return indexes
