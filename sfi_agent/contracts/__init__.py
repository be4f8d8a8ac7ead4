"""What a plugin can provide beside policies: selectors, boundary detectors, attention kernels.

A selector may bring a key index and its coding, a kernel one that runs rows of many sessions.

Shapes use one set of letters throughout the project:

====  ==========================================================
N     layers in one call (full-attention layers only)
H     query heads; ``H_kv`` key/value heads; ``G = H / H_kv``
D     head dimension; ``D_v`` that of values, where it differs (latent attention)
L     tokens in the context
P     candidate positions, those between sink and recent
R     evidence rows for one KV head: ``G`` x captured queries
n     new tokens of one row in one step
====  ==========================================================
"""

from sfi_agent.contracts.beside import Beside, Rotary
from sfi_agent.contracts.boundary import BoundaryDetector, TokenFlag, Vocabulary
from sfi_agent.contracts.coding import Coding
from sfi_agent.contracts.drawing import Draw, Drawing
from sfi_agent.contracts.highest import sliding_max, top_jointly, top_positions
from sfi_agent.contracts.index import KeyIndex
from sfi_agent.contracts.kernel import AttentionKernel, LayerSpec
from sfi_agent.contracts.lane import PAGE, Lane, LayerPages, Lists, Ranked, Rings
from sfi_agent.contracts.rows import RowsKernel
from sfi_agent.contracts.selector import Evidence, Ranking, Selection, Selector, View
from sfi_agent.contracts.state import State, Stateful

__all__ = [
    "PAGE",
    "AttentionKernel",
    "Beside",
    "BoundaryDetector",
    "Coding",
    "Draw",
    "Drawing",
    "Evidence",
    "KeyIndex",
    "Lane",
    "LayerPages",
    "LayerSpec",
    "Lists",
    "Ranked",
    "Ranking",
    "Rings",
    "Rotary",
    "RowsKernel",
    "Selection",
    "Selector",
    "State",
    "Stateful",
    "TokenFlag",
    "View",
    "Vocabulary",
    "sliding_max",
    "top_jointly",
    "top_positions",
]
