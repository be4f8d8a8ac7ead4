"""The selectors, boundary detectors and policies that come with sfi-agent."""

from __future__ import annotations

from sfi_agent.contracts import BoundaryDetector, Selector
from sfi_agent.hookspecs import Register, hookimpl
from sfi_agent.policy import Policy


@hookimpl
def sfi_register_selectors(register: Register[Selector]) -> None:
    """Offer those that choose at slow steps, then those that choose at every step."""
    from sfi_plugins.selectors.forward import ForwardSelector
    from sfi_plugins.selectors.h2o import H2OSelector
    from sfi_plugins.selectors.index import IndexSelector
    from sfi_plugins.selectors.paper import PaperSelector
    from sfi_plugins.selectors.quest import QuestSelector
    from sfi_plugins.selectors.recent import RecentSelector
    from sfi_plugins.selectors.shared import SharedSelector
    from sfi_plugins.selectors.snapkv import SnapKVSelector
    from sfi_plugins.selectors.top_mass import TopMassSelector
    from sfi_plugins.selectors.top_p import TopPSelector

    register("paper", PaperSelector)
    register("top_mass", TopMassSelector)
    register("recent", RecentSelector)
    register("snapkv", SnapKVSelector)
    register("forward", ForwardSelector)
    register("h2o", H2OSelector)
    register("index", IndexSelector)
    register("top_p", TopPSelector)
    register("shared", SharedSelector)
    register("quest", QuestSelector)


@hookimpl
def sfi_register_boundaries(register: Register[BoundaryDetector]) -> None:
    """Offer those that know the token, those that read text, and one that watches the model's doubt."""
    from sfi_plugins.boundaries.drift import DriftDetector
    from sfi_plugins.boundaries.interval import IntervalDetector
    from sfi_plugins.boundaries.newline import NewlineDetector
    from sfi_plugins.boundaries.punctuation import PunctuationDetector
    from sfi_plugins.boundaries.tool_call import ToolCallDetector

    register("punctuation", PunctuationDetector)
    register("newline", NewlineDetector)
    register("tool_call", ToolCallDetector)
    register("interval", IntervalDetector)
    register("drift", DriftDetector)


@hookimpl
def sfi_register_policies(register: Register[Policy]) -> None:
    """Offer ``fast``, ``balanced`` and ``exact``."""
    from sfi_plugins import policies

    register("fast", policies.fast)
    register("balanced", policies.balanced)
    register("exact", policies.exact)
