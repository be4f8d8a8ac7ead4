"""Smallest and largest element of the keys of each page."""

from __future__ import annotations

import torch
from torch import Tensor

from sfi_agent.contracts import KeyIndex


class PageBounds(KeyIndex):
    """Element-wise bounds of each page of keys, and so of products with them (Quest, arXiv 2406.10774).

    Args:
        page: positions in a page; pages begin at multiples of it.
    """

    def __init__(self, page: int) -> None:
        self.page = page
        self._low: Tensor | None = None
        self._high: Tensor | None = None

    def append(self, keys: Tensor) -> None:
        for chunk in self._split(keys):
            self._extend(chunk)

    def _split(self, keys: Tensor) -> list[Tensor]:
        """The part that fills the page begun, and the pages after it."""
        head = min(-self.length % self.page, keys.shape[1])
        return [part for part in (keys[:, :head], keys[:, head:]) if part.shape[1]]

    def _extend(self, keys: Tensor) -> None:
        begun = self.length % self.page > 0
        low, high = _bounds(keys, self.page)
        if self._low is None or self._high is None or self.length == 0:
            self._low, self._high = low, high
        elif begun:
            self._low[:, -1] = torch.minimum(self._low[:, -1], low[:, 0])
            self._high[:, -1] = torch.maximum(self._high[:, -1], high[:, 0])
        else:
            self._low, self._high = torch.cat([self._low, low], 1), torch.cat([self._high, high], 1)
        self.length += keys.shape[1]

    def truncate(self, length: int) -> None:
        if length >= self.length:
            return
        self.length = length - length % self.page  # the bounds of a cut page are not known
        pages = self.length // self.page
        if self._low is not None and self._high is not None:
            self._low, self._high = self._low[:, :pages], self._high[:, :pages]

    def products(self, queries: Tensor, first: int, last: int, positions: Tensor | None = None) -> Tensor:
        """Upper bounds: the same for every position of a page."""
        assert self._low is not None
        assert self._high is not None
        wide = queries.float()
        bounds = wide.clamp_min(0) @ self._high.float().transpose(1, 2)
        bounds = bounds + wide.clamp_max(0) @ self._low.float().transpose(1, 2)
        if positions is None:
            places = torch.arange(first, last, device=queries.device) // self.page
            return bounds[..., places]
        pages = (positions // self.page)[None, :, None].expand(*bounds.shape[:3], -1)
        return bounds.gather(-1, pages)

    def bytes_read(self, positions: int) -> float:
        assert self._low is not None
        return 2 * self._low[:, 0].numel() * self._low.element_size() * -(-positions // self.page)


def _bounds(keys: Tensor, page: int) -> tuple[Tensor, Tensor]:
    """``[H_kv, pages, D]`` minima and maxima of ``[H_kv, n, D]``, the last page perhaps short."""
    padded = torch.nn.functional.pad(keys, (0, 0, 0, -keys.shape[1] % page), mode="replicate")
    paged = padded.unflatten(1, (-1, page))
    return paged.amin(2), paged.amax(2)
