"""Levels in bytes, of codes."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl


def table_of(levels: Sequence[float]) -> tuple[tuple[int, ...], float]:
    """The levels as signed bytes, and the step that these count."""
    step = max(abs(level) for level in levels) / 127
    return tuple(int(level / step + 127.5) - 127 for level in levels), step


@triton.constexpr_function
def _word(table: Sequence[int], first: int) -> str:
    """Four bytes of a table as an operand."""
    found = bytes(level & 0xFF for level in table[first : first + 4]).ljust(4, b"\0")
    return f"0x{int.from_bytes(found, 'little'):08x}"


@triton.constexpr_function
def assembly(part: int, bits: int, table: Sequence[int]) -> str:
    """PTX: ``$0``, levels in bytes, of ``$1``, four bytes of code.

    A word is turned until the wanted symbols of it stand at the foot of nibbles, which choose bytes of the
    table (``prmt``), four at a time.
    """
    turn, half = part // 2 * bits, part % 2 * 16
    turned = f"shr.b32 n, $1, {turn};"
    if bits < 4:
        chosen = f"lop3.b32 n, n, 0x{0x11111111 * (2**bits - 1):x}, 0x44444444, 0xea; shr.b32 n, n, {half};"
        return "{ .reg .b32 n; " + turned + chosen + f"prmt.b32 $0, 0, {_word(table, 0)}, n; }}"
    return (
        "{ .reg .b32 n, low, high; "
        f"and.b32 n, $1, 0x77777777; shr.b32 n, n, {half};"
        f"prmt.b32 low, {_word(table, 0)}, {_word(table, 4)}, n;"
        f"prmt.b32 high, {_word(table, 8)}, {_word(table, 12)}, n;"
        f"shr.b32 n, $1, 3; and.b32 n, n, 0x11111111; shr.b32 n, n, {half};"
        "prmt.b32 n, 0xff00, 0, n; lop3.b32 $0, n, high, low, 0xca; }"
    )


@triton.jit
def unfolded(
    code, source, places, part: tl.constexpr, BITS: tl.constexpr, WIDTH: tl.constexpr, TABLE: tl.constexpr,
    NATIVE: tl.constexpr,
):  # fmt: skip
    """One of the ``8 / BITS`` parts of the levels of ``code`` ``[BLOCK, WIDTH]`` uint8, int8 in its shape.

    Byte i of part p stands for symbol ``p // 2`` of nibble ``p % 2 * 4 + i % 4`` of word ``i // 4``. Where
    there is no PTX it is found at ``source``, where the code was loaded.
    """
    if NATIVE:
        level = tl.inline_asm_elementwise(
            assembly(part, BITS, TABLE), "=r,r", [code], dtype=tl.int8, is_pure=True, pack=4
        )
    else:
        nibble = part % 2 * 4 + places % 4
        held = tl.load(source + (places // 4 * 4 + nibble // 2)[None], mask=places[None] < WIDTH, other=0)
        symbol = held >> (nibble % 2 * 4 + part // 2 * BITS)[None] & (2**BITS - 1)
        level = tl.zeros(symbol.shape, tl.int8)
        for each in tl.static_range(2**BITS):
            level = tl.where(symbol == each, TABLE[each], level).to(tl.int8)
    return level
