"""A model's layers compiled, and linear layers that read the same input computed as one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sfi_agent.runtime.laned import linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of linear layers that read one input, in most of transformers' decoders."""
COMPILED = 128
"""Times that a layer may be compiled: for one token, for any number, fused or not, and as often where layers
differ."""


@contextmanager
def compiled(model: PreTrainedModel, *, fused: bool = False) -> Iterator[None]:
    """Inside, calls of the model run its layers, and what precedes and follows them, compiled.

    Outside it is as it was.

    Args:
        model: on attention ``sfi``.
        fused: whether products are computed with the norms, gates and residual sums beside them
            (:meth:`RowsKernel.fused`).
    """
    layers = _layers(model)
    options = import_module("sfi_agent.runtime.fusion").OPTIONS if fused else None
    with ExitStack() as stack:
        settings = torch._dynamo.config
        limits: dict[str, Any] = {
            name: COMPILED for name in ("recompile_limit", "cache_size_limit") if hasattr(settings, name)
        }
        limits["specialize_float"] = fused  # a norm's eps is a number in the graph then
        stack.enter_context(settings.patch(limits))
        inductor = import_module("torch._inductor.config")
        choices = {"combo_kernels": True}  # small kernels that do not wait for one another are one
        if hasattr(inductor.triton, "enable_pdl"):  # and begin early, as the others do
            choices["triton.enable_pdl"] = _overlaps(model)
        stack.enter_context(inductor.patch(choices))
        stack.enter_context(warnings.catch_warnings())
        # Who asks for float32 wants all of its digits.
        warnings.filterwarnings("ignore", "TensorFloat32 tensor cores")
        for module in list(model.modules()):
            _join(module, stack)
        for module in list(model.modules()):
            if type(module) is nn.Linear:
                stack.callback(setattr, module, "__class__", nn.Linear)
                module.__class__ = _Linear
        for part in (*layers, *_around(model, layers)):
            stack.callback(setattr, part, "_compiled_call_impl", part._compiled_call_impl)
            part._compiled_call_impl = torch.compile(_call_of(part), dynamic=True, options=options)
        yield


def _call_of(module: nn.Module) -> Callable[..., Any]:
    """Its call, to be compiled, from here: dynamo passes over those that begin in torch's own modules."""
    call: Callable[..., Any] = module._call_impl
    return (lambda *given, **named: call(*given, **named)) if type(module) is nn.Embedding else call


def _overlaps(model: PreTrainedModel) -> bool:
    """Whether the device starts kernels before those they wait for are done: from Hopper on."""
    return model.device.type == "cuda" and torch.cuda.get_device_capability(model.device)[0] >= 9


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The decoder's layers: the list of as many modules as the configuration names."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    return []


def _around(model: nn.Module, layers: list[nn.Module]) -> list[nn.Module]:
    """What is called beside the layers, as the embeddings and the last norm."""
    for module in model.modules():
        children = list(module.children())
        if any(isinstance(each, nn.ModuleList) and list(each) == layers for each in children):
            kinds = nn.ModuleList, nn.Linear
            return [each for each in children if not isinstance(each, kinds) and not _looks(each)]
    return []


def _looks(module: nn.Module) -> bool:
    """Whether its call reads positions back from the device, to choose frequencies by the longest."""
    kinds = str(getattr(module, "rope_type", ""))  # a name, or one for each type of layer
    return any(each in kinds for each in ("longrope", "dynamic"))


def _join(module: nn.Module, stack: ExitStack) -> None:
    """Have the linear layers of ``module`` that read one input computed as one, until the stack closes."""
    for names in TOGETHER:
        parts: list[Any] = [getattr(module, name, None) for name in names]
        if not all(type(part) is nn.Linear and part.bias is None for part in parts):
            continue
        first = _First(_packed(parts), [part.out_features for part in parts])
        for name, old, new in zip(names, parts, [first, *first.rest], strict=True):
            stack.callback(setattr, module, name, old)
            setattr(module, name, new)


def _packed(parts: list[nn.Linear]) -> Tensor:
    """The weights under one another; the layers' own become views of it, so that nothing is held twice."""
    known: Tensor | None = getattr(parts[0], _PACKED, None)
    if known is not None and _within(parts, known):
        return known
    with torch.inference_mode(False):
        packed = torch.cat([part.weight.data for part in parts])
    start = 0
    for part in parts:
        part.weight = nn.Parameter(packed[start : start + part.out_features], requires_grad=False)
        start += part.out_features
    setattr(parts[0], _PACKED, packed)
    return packed


_PACKED = "_sfi_packed"


def _within(parts: list[nn.Linear], packed: Tensor) -> bool:
    """Whether the layers' weights still are views of ``packed``."""
    storage = packed.untyped_storage().data_ptr()
    return all(part.weight.untyped_storage().data_ptr() == storage for part in parts)


class _Linear(nn.Linear):
    """Computed by the kernel of the lane in progress."""

    def forward(self, input: Tensor) -> Tensor:
        product: Tensor = linear(input, self.weight, self.bias)
        return product


class _First(nn.Module):
    """Computes all, gives the first and leaves the others to the layers after it."""

    def __init__(self, weight: Tensor, sizes: list[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.sizes = sizes
        self.rest = tuple(_Rest() for _ in sizes[1:])  # not among its modules: they stand beside it

    def forward(self, inputs: Tensor) -> Tensor:
        parts = linear(inputs, self.weight, None).split(self.sizes, -1)
        for later, part in zip(self.rest, parts[1:], strict=True):
            later.held = part
        first: Tensor = parts[0]
        return first


class _Rest(nn.Module):
    """Gives what the first one left it."""

    def __init__(self) -> None:
        super().__init__()
        self.held: Any = None

    def forward(self, inputs: Tensor) -> Tensor:
        held: Tensor = self.held
        self.held = None
        return held
