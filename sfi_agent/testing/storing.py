"""What is stored of a plugin's object, as a session on disk would hold it."""

from __future__ import annotations

import json
from typing import TypeVar

import torch
from torch import Tensor

from sfi_agent.contracts import Stateful
from sfi_agent.store.tree import decode, encode

Kept = TypeVar("Kept", bound=Stateful)


def through_a_file(used: Stateful, new: Kept, device: str) -> Kept:
    """``new`` with the state of ``used``, which has been text and plain tensors in between."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(encode(used.state(), "state", torch.device(device), tensors))
    new.restore(decode(json.loads(text), torch.device(device), tensors))
    return new
