"""Limits of numbers, as far as llguidance holds them: as floats, in 64 bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sfi_agent.errors import GrammarError

LENIENT = "strict=False, or lenient in a Grammar"
LARGEST = 10**15
"""Magnitude of a number whose schema sets no limit, at most."""
BETWEEN = 1024
"""Distance of the last floats below 64 bits."""
HELD = 2**63 - BETWEEN
"""Magnitude of any number, at most."""
FINEST = 1e-9
"""Decimals of a number, where the schema names no step; exponents are not written."""
LOWER, UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")


def held(schema: Mapping[str, Any], *, lenient: bool) -> dict[str, Any]:
    """A copy whose limits can be held; none is looser than it was.

    Raises:
        GrammarError: a limit leaves no number that can be written, unless ``lenient``: then it is left out.
    """
    made = dict(schema)
    for name in (*LOWER, *UPPER):
        sign, exclusive = 1 if name in LOWER else -1, name.startswith("exclusive")
        for limit in _numbers(made, [name]):
            if sign * limit <= HELD - BETWEEN * exclusive:
                made[name] = _inward(limit, sign, exclusive)
            elif lenient:
                del made[name]
            else:
                raise GrammarError(
                    f"the grammar cannot be used: {name} leaves no number that can be written, for these end "
                    f"at {sign * HELD}; leave it out of the schema, or have it ignored ({LENIENT})"
                )
    if made.get("type") != "integer":
        _include(made, "exclusiveMinimum", "minimum", 1)
        _include(made, "exclusiveMaximum", "maximum", -1)
    return made


def fill(made: dict[str, Any]) -> None:
    """Set the limits that a number lacks: usual ones, or beyond the one that it has."""
    low = max(_numbers(made, LOWER), default=None)
    high = min(_numbers(made, UPPER), default=None)
    if low is None:
        made["minimum"] = -_reach(-(high or 0))
    if high is None:
        made["maximum"] = _reach(low or 0)


def _include(made: dict[str, Any], exclusive: str, inclusive: str, sign: int) -> None:
    """Have the next number as the limit instead of a whole one that is exclusive: llguidance lets that
    through, without decimals, where the other limit is less than 1 away."""
    for limit in _numbers(made, [exclusive]):
        if float(limit).is_integer() and abs(limit) < 2**53:
            near = sign * max(sign * limit + FINEST, math.nextafter(sign * limit, math.inf))
            made[inclusive] = sign * max(sign * other for other in (near, *_numbers(made, [inclusive])))
            del made[exclusive]


def _reach(limit: float) -> float:
    return min(HELD, max(LARGEST, 2 * limit))


def _inward(limit: float, sign: int, exclusive: bool) -> float:
    """The nearest float that is a limit as strict; ``sign`` is 1 for the lower one.

    Where floats are further apart than integers, an exclusive one is not told from one that is not.
    """
    limit = sign * max(-HELD, sign * limit)
    near = float(limit)
    if sign * near < sign * limit or (exclusive and abs(near) >= 2**53):
        near = math.nextafter(near, sign * math.inf)
    return limit if near == limit else int(near)


def _numbers(schema: Mapping[str, Any], names: Iterable[str]) -> list[float]:
    values = [schema.get(name) for name in names]
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
