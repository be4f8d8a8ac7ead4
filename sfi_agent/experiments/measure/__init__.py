"""The kinds of measurements that a page can ask for."""

from __future__ import annotations

from typing import Any

from sfi_agent.errors import UnknownNameError
from sfi_agent.experiments.measure.base import Measurement
from sfi_agent.experiments.measure.drafts import DraftsMeasurement
from sfi_agent.experiments.measure.fidelity import FidelityMeasurement
from sfi_agent.experiments.measure.retrieval import RetrievalMeasurement
from sfi_agent.experiments.measure.support import SupportMeasurement

KINDS: dict[str, type[Measurement[Any, Any]]] = {
    kind.kind: kind
    for kind in (FidelityMeasurement, SupportMeasurement, DraftsMeasurement, RetrievalMeasurement)
}


def kind_of(name: str) -> type[Measurement[Any, Any]]:
    """The measurement called ``name``.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in KINDS:
        raise UnknownNameError("measurement", name, KINDS)
    return KINDS[name]
