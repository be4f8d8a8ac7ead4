"""Grammar-constrained decoding: which tokens may come next, as a function of the answer so far."""

from sfi_agent.grammar.bounds import bounded
from sfi_agent.grammar.constraint import Constraint
from sfi_agent.grammar.guidance import Grammars

__all__ = ["Constraint", "Grammars", "bounded"]
