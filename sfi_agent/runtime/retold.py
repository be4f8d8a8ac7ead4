"""What a kernel chose inside the device at the latest fast step, computed again to be told."""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Coding, top_jointly
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.remembered import Chosen
from sfi_agent.runtime.row import Row


def chosen_again(row: Row) -> dict[int, Tensor]:
    """Positions ``[H_kv, S]`` by layer, -1 in unused places; empty where no kernel chose.

    From the same codes and query, by the rule of :class:`Coding`. Kernels compare probabilities coarsely:
    of positions that tie there, others may be told.
    """
    kv, memory = row.kv, row.memory.pages if row.memory else None
    if not (isinstance(memory, Chosen) and isinstance(kv, PagedCache) and row.queries.latest(kv.length, 1)):
        return {}
    places, told = kv.places(memory.sink, memory.tail), {}
    for layer, store in kv.layers.items():
        if store.spec.window is not None:
            continue
        query = row.queries.gather(layer, [kv.length - 1])[0]
        logits = store.spec.logits(_products(query, kv, layer, places, memory.coding))
        told[layer] = top_jointly(logits.softmax(-1).mean(1)[None], memory.count, memory.sink).positions[0]
    return told


def _products(query: Tensor, kv: PagedCache, layer: int, places: Tensor, coding: Coding) -> Tensor:
    """``[H_kv, G, P]`` float32: a query's ``[H, D]`` products with the keys at these places, as coded."""
    pages = kv.pool.layer(layer)
    assert pages.codes is not None
    assert pages.scales is not None
    codes, scales = (store[places // PAGE, :, places % PAGE] for store in (pages.codes, pages.scales))
    shifts = torch.arange(0, 8, coding.bits, device=codes.device)
    symbols = ((codes[..., None] >> shifts) & (2**coding.bits - 1)).flatten(-2)[..., : query.shape[-1]]
    keys = torch.tensor(coding.levels, device=codes.device)[symbols.int()] * scales.float()  # [P, H_kv, D]
    turned = (query.float() @ coding.rotation(query)).view(keys.shape[1], -1, query.shape[1])
    return torch.einsum("hgd,phd->hgp", turned, keys)
