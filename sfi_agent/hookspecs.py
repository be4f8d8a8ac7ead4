"""The whole plugin contract: five hooks, called at start-up (and for events), never per token.

A plugin is any module or object with some of these functions, each marked ``@hookimpl``, named by
an entry point of group ``sfi_agent`` or given to ``Registry(extra=[...])``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import pluggy

from sfi_agent.contracts import AttentionKernel, BoundaryDetector, Selector
from sfi_agent.events import Event
from sfi_agent.policy import Policy

T = TypeVar("T", covariant=True)

hookspec = pluggy.HookspecMarker("sfi_agent")
hookimpl = pluggy.HookimplMarker("sfi_agent")


class Register(Protocol[T]):
    """``register(name, factory)``: offer ``factory`` under ``name``.

    The factory is a dataclass (its fields are the settings a policy may give) or any callable
    with keyword arguments.
    """

    def __call__(self, name: str, factory: Callable[..., Any]) -> None: ...


@hookspec
def sfi_register_selectors(register: Register[Selector]) -> None:
    """Offer selectors.

    :param register: called once for each selector.
    """


@hookspec
def sfi_register_boundaries(register: Register[BoundaryDetector]) -> None:
    """Offer boundary detectors.

    :param register: called once for each detector.
    """


@hookspec
def sfi_register_kernels(register: Register[AttentionKernel]) -> None:
    """Offer attention kernels.

    Kernel ``auto`` takes the one of highest ``priority`` that can run; without one, by name only.

    :param register: called once for each kernel.
    """


@hookspec
def sfi_register_policies(register: Register[Policy]) -> None:
    """Offer named policies, so that users pick by need.

    :param register: called once for each policy; its factory takes no arguments, and the first line
        of its docstring says what the policy is for.
    """


@hookspec
def sfi_on_event(event: Event) -> None:
    """Observe every runtime that has the plugin in its registry, or, among ``runtime.observers``, that one.

    Called in the thread where it happened, mostly the one that steps every turn, or the one that writes
    sessions. That one waits meanwhile: hand slow work to a queue, and leave it to another thread to call the
    runtime.

    :param event: one of the dataclasses in :mod:`sfi_agent.events`.
    """
