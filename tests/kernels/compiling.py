"""What Triton makes of the kernels for a GPU that is not there: ``python -m tests.kernels.compiling hopper``.

Every launch is made with tensors that have a shape and no memory, and is compiled instead of run. A line of
JSON tells of each; the argument names one of ``GPUS``. For consumer GPUs only what needs most of their memory
is compiled: attention of several tokens a row, and what a selector weighs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction, MockTensor

from sfi_agent.contracts import PAGE, Drawing, LayerSpec, Rotary
from sfi_agent.contracts.drawing import NUMBERS
from sfi_kernels.append.triton import append
from sfi_kernels.choice.triton import choose
from sfi_kernels.coding.triton import code
from sfi_kernels.drawing.triton import draw
from sfi_kernels.evidence.triton import mass
from sfi_kernels.highest.triton import highest
from sfi_kernels.index_scores.triton import scores
from sfi_kernels.linear.triton import MOST_TOKENS, linear
from sfi_kernels.paging import Paged
from sfi_kernels.paper_scores.triton import paper_scores
from sfi_kernels.places.triton import place
from sfi_kernels.sliding_max.triton import sliding_max
from sfi_kernels.spans import Spans
from sfi_kernels.sparse_attention.triton import sparse_attention
from sfi_plugins.indexes.rotated import LEVELS


@dataclass(frozen=True)
class Gpu:
    """One that kernels are compiled for.

    Attributes:
        capability: 90 for 9.0.
        multiprocessors: it has.
        shared: bytes of memory of each.
        whole: whether all kernels are compiled.
    """

    capability: int
    multiprocessors: int
    shared: int
    whole: bool


GPUS = {"hopper": Gpu(90, 132, 228 * 1024, True), "consumer": Gpu(89, 128, 100 * 1024, False)}
ROWS, CONTEXT, DRAFT = 8, 32_768, 16


@dataclass(frozen=True)
class Shape:
    """Of a model's attention."""

    name: str
    dtype: torch.dtype
    heads: int
    kv_heads: int
    dim: int
    bits: int
    softcap: float | None = None
    whole: bool = False
    """Whether every launch of attention is compiled for it, or those alone that have most in them."""


LARGEST = Shape("float32, one KV head of 256", torch.float32, 16, 1, 256, 4)
"""Its attention takes minutes to compile."""
SHAPES = (
    Shape("Qwen3-4B", torch.bfloat16, 32, 8, 128, 2, whole=True),
    Shape("float16, no groups", torch.float16, 4, 4, 96, 1),
    Shape("bfloat16, one KV head of 256", torch.bfloat16, 16, 1, 256, 4, softcap=30.0),
)


@dataclass(frozen=True)
class Compiled:
    """One kernel for one shape.

    Attributes:
        shape, kernel: their names.
        registers: of a thread.
        stack: bytes of a thread for which there was no register.
        shared: bytes of a program.
        warps: of a program.
        buffers: of the blocks that its loop loads ahead, for each.
        doubles: whether it computes in double precision.
    """

    shape: str
    kernel: str
    registers: int
    stack: int
    shared: int
    warps: int
    buffers: list[int]
    doubles: bool


class Compiler:
    """Takes the place of launches and of the driver.

    Args:
        gpu: that is compiled for.
    """

    def __init__(self, gpu: Gpu) -> None:
        self.found: list[Compiled] = []
        self._gpu, self._shape, self._run = gpu, "", JITFunction.run
        about = SimpleNamespace(
            multi_processor_count=gpu.multiprocessors, shared_memory_per_multiprocessor=gpu.shared
        )
        torch.cuda.get_device_capability = lambda *_: divmod(gpu.capability, 10)
        torch.cuda.get_device_properties = lambda *_: about  # type: ignore[assignment]
        torch.cuda.current_stream = lambda *_: SimpleNamespace(cuda_stream=0)  # type: ignore[assignment]
        driver.set_active(self)  # type: ignore[arg-type]
        compiler = self

        def compiled(kernel: JITFunction, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
            compiler._compile(kernel, arguments, grid, options)

        JITFunction.run = compiled

    def launches(self) -> None:
        """All of a step's, and of a refresh's."""
        with FakeTensorMode():
            for shape in SHAPES if self._gpu.whole else SHAPES[::2]:
                self._shape = shape.name
                several(shape, whole=shape.whole and self._gpu.whole)
                if not self._gpu.whole:
                    continue
                attention(shape)
                weights(shape)
                if shape.dtype == torch.bfloat16:
                    products(shape)
                    rest(shape)
            self._shape = LARGEST.name
            weights(LARGEST)
            if self._gpu.whole:
                rest(LARGEST)

    def _compile(
        self, kernel: JITFunction, arguments: tuple[Any, ...], grid: Any, options: dict[str, Any]
    ) -> None:
        plain = [
            MockTensor(each.dtype, [*each.shape]) if isinstance(each, Tensor) else each for each in arguments
        ]
        made = self._run(kernel, *plain, grid=grid, warmup=True, **options)
        registers, stack = _used(made.asm["cubin"])
        text = made.asm["ttgir"]
        ahead = re.findall(r"local_alloc : \(\) -> !ttg.memdesc<(\d+)x\d+x\d+x", text)
        name, about = kernel.fn.__name__, made.metadata
        self.found.append(
            Compiled(
                self._shape,
                name,
                registers,
                stack,
                about.shared,
                about.num_warps,
                [*map(int, ahead)],
                "f64" in text,
            )
        )

    # What Triton asks of a driver.

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._gpu.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


def attention(shape: Shape) -> None:
    """Of one token a row: what an index chooses, and attention to it."""
    some = partial(torch.empty, dtype=shape.dtype, device="cuda")
    heads, kv_heads, dim, ints = shape.heads, shape.kv_heads, shape.dim, torch.int32
    store, lengths, spec = context(shape)
    codes = some(*store.keys.shape[:3], dim * shape.bits // 8, dtype=torch.uint8)
    index = Paged.pool(codes, some(*codes.shape[:3], 1, dtype=torch.float16), store.tables)
    rotation, levels = some(dim, dim, dtype=torch.float32), _levels(shape.bits)
    asked, *fresh = (some(ROWS, each, dim) for each in (heads, kv_heads, kv_heads))

    weigh = partial(scores, asked, rotation, index, lengths, lengths, levels, spec)
    weigh(longest=CONTEXT, firsts=some(ROWS + 1, dtype=ints))
    found = weigh(longest=CONTEXT)
    listed, counts = choose(found, lengths, lengths, lengths, store.tables, most=4096, sinks=True)
    remembered, new = (listed, counts, lengths, lengths, spec), (fresh[0], fresh[1])
    sparse_attention(asked, store, *remembered, longest=2304, chosen=True, fresh=new)
    attend = partial(sparse_attention, asked, store, fresh=new, rings=(some(4, ROWS, dtype=ints), 1))
    attend(*remembered, longest=8 * CONTEXT, shares=lengths, spans=Spans(some(ROWS + 1, dtype=ints), 1))
    if shape.whole:
        attend(*remembered, longest=2304)
        attend(*remembered, longest=CONTEXT, shares=lengths)
        attend(None, None, None, lengths, spec, longest=CONTEXT)


def several(shape: Shape, *, whole: bool) -> None:
    """Attention of drafts, of all rows and of some, and of a prompt; unless ``whole`` not of all rows."""
    some, tokens = partial(torch.empty, dtype=shape.dtype, device="cuda"), ROWS * DRAFT
    store, lengths, spec = context(shape)
    asked, *fresh = (some(tokens, each, shape.dim) for each in (shape.heads, shape.kv_heads, shape.kv_heads))
    new, rings = (fresh[0], fresh[1]), (some(4, ROWS, dtype=torch.int32), 1)
    everything = asked, store, None, None, None, lengths, spec
    attend = partial(sparse_attention, *everything, rings=rings)
    spans = Spans(some(ROWS + 1, dtype=torch.int32), DRAFT, 2)
    if whole:
        attend(longest=CONTEXT, fresh=new)
    attend(longest=8 * CONTEXT, fresh=new, spans=spans)  # the others by the launch before
    append(*new, store, lengths, spans)
    attend(longest=CONTEXT, spans=spans._replace(most=512))


def context(shape: Shape) -> tuple[Paged, Tensor, LayerSpec]:
    """Keys and values of some rows, their lengths, and the layer's scaling."""
    some = partial(torch.empty, dtype=shape.dtype, device="cuda")
    tables, lengths = (some(ROWS, *each, dtype=torch.int32) for each in ((CONTEXT // PAGE,), ()))
    pages = ROWS * CONTEXT // PAGE, shape.kv_heads, PAGE, shape.dim
    store = Paged.pool(some(pages), some(pages), tables)
    return store, lengths, LayerSpec(shape.dim**-0.5, softcap=shape.softcap)


def products(shape: Shape) -> None:
    """A layer's of one token a row and of a draft, and what draws tokens."""
    some = partial(torch.empty, dtype=shape.dtype, device="cuda")
    for tokens in (1, DRAFT):
        layer(shape, ROWS * tokens)
    logits, drawn = some(ROWS, 151_936), some(ROWS, dtype=torch.int64)
    numbers = some(ROWS, NUMBERS, dtype=torch.int32)
    draw(logits, None, drawn)
    draw(logits, Drawing(numbers, drawn), drawn)
    draw(logits, Drawing(numbers, drawn, 64), drawn)


def layer(shape: Shape, tokens: int) -> None:
    """A layer's linear layers as they are, and with what precedes and follows them; up to 64 tokens."""
    some, tokens = partial(torch.empty, dtype=shape.dtype, device="cuda"), min(tokens, MOST_TOKENS)
    hidden, wide = 2560, 9728
    inputs, inner, norm = some(tokens, hidden), some(tokens, wide), some(hidden)
    down = some(hidden, wide)
    linear(inputs, some(6144, hidden))
    linear(inputs, some(6144, hidden), norm=norm)
    head = partial(some, shape.dim)
    if shape.dim & (shape.dim - 1) == 0:
        angles = some(tokens, shape.dim)
        turn = Rotary(angles, angles, shape.heads, shape.kv_heads, head(), head())
        linear(inputs, some((shape.heads + 2 * shape.kv_heads) * shape.dim, hidden), norm=norm, rotary=turn)
    linear(inner, down)
    linear(inner, down, residual=inputs)
    linear(inputs, some(2 * wide, hidden), norm=norm, gated=True)


def weights(shape: Shape) -> None:
    """What a selector weighs."""
    some = partial(torch.empty, dtype=shape.dtype, device="cuda")
    keys, table = some(2, CONTEXT // PAGE, shape.kv_heads, PAGE, shape.dim), some(CONTEXT // PAGE).int()
    spec = LayerSpec(shape.dim**-0.5, softcap=shape.softcap)
    mass(some(2, DRAFT, shape.heads, shape.dim), keys, (0, 1), table, 4, CONTEXT, spec, 2.0, norms=True)


def rest(shape: Shape) -> None:
    """Of a refresh: what a selector keeps, and codes of keys."""
    some = partial(torch.empty, dtype=shape.dtype, device="cuda")
    keys = some(2, CONTEXT // PAGE, shape.kv_heads, PAGE, shape.dim)
    candidates = some(2, shape.kv_heads, CONTEXT, dtype=torch.float32)
    sliding_max(candidates, 7)
    table, out = some(CONTEXT // PAGE).int(), some(2, shape.kv_heads, 2052, dtype=torch.int32)
    place(some(2, shape.kv_heads, 2048, dtype=torch.int64), table, out, some((), dtype=torch.int64))
    paper_scores(candidates, candidates, 0.5, 0.7, 0.568, 1.8, 0.4, 0.25, True, 32, 2.0, 0.85)
    highest(candidates, 2048)
    codes, levels = some(*keys.shape[:4], shape.dim * shape.bits // 8, dtype=torch.uint8), _levels(shape.bits)
    scales, mean = some(*keys.shape[:4], 1, dtype=torch.float16), some(2, shape.kv_heads, shape.dim)
    rotation = some(shape.dim, shape.dim, dtype=torch.float32)
    code(keys, codes, scales, some(24, dtype=torch.int64), mean.float(), rotation, levels)


def _levels(bits: int) -> tuple[float, ...]:
    return *(-level for level in reversed(LEVELS[bits])), *LEVELS[bits]


def _used(binary: bytes) -> tuple[int, int]:
    """Registers of a thread and the bytes that it keeps elsewhere."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    numbers = re.search(r"REG:(\d+) STACK:(\d+)", told)
    assert numbers, told
    return int(numbers[1]), int(numbers[2])


if __name__ == "__main__":
    compiler = Compiler(GPUS[sys.argv[1]])
    compiler.launches()
    for line in compiler.found:
        print(json.dumps(asdict(line)))
