"""Broken plugins are named, disabled ones left out."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import torch

from sfi_agent import events, registry
from sfi_agent.contracts import BoundaryDetector
from sfi_agent.environment import environment
from sfi_agent.errors import PluginError, SettingError, UnknownNameError
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import Registry
from sfi_kernels.bundles import GroupedKernel, TorchKernel

HOOKS = ("sfi_register_selectors", "sfi_register_boundaries", "sfi_register_kernels", "sfi_on_event")


@dataclass
class Never(BoundaryDetector):
    times: int = 1

    def observe(self, text: str) -> bool:
        return False


class Good:
    name = "good"

    @hookimpl
    def sfi_register_boundaries(self, register):
        register("never", Never)


class Taking:
    name = "taking"

    @hookimpl
    def sfi_register_boundaries(self, register):
        register("tool_call", Never)


def problem_of(plugin: object) -> str:
    """Why ``plugin`` was left out, the good one beside it being in use."""
    found = Registry([plugin, Good()], discover=False)
    assert found.plugins == ["good"]
    assert list(found.entries("boundary")) == ["never"]
    (problem,) = found.problems
    assert problem.plugin == "bad"
    assert "\n" not in problem.reason
    with pytest.raises(UnknownNameError, match="Plugin 'bad' is not in use") as error:
        found.create("selector", "anything")
    assert str(error.value).endswith((".", "?"))
    assert not str(error.value).endswith(("..", "?."))
    with pytest.raises(PluginError, match="bad"):
        Registry(discover=False).add(plugin)
    return problem.reason


def test_a_misspelt_hook():
    class Bad:
        name = "bad"

        @hookimpl
        def sfi_register_boundary(self, register):
            pass

    reason = problem_of(Bad())
    assert "'sfi_register_boundary'" in reason
    assert all(hook in reason for hook in HOOKS)


def test_a_misspelt_prefix():
    class Bad:
        name = "bad"

        @hookimpl
        def register_boundaries(self, register):
            pass

    reason = problem_of(Bad())
    assert "register_boundaries" in reason
    assert all(hook in reason for hook in HOOKS)


def test_a_wrong_argument():
    class Bad:
        name = "bad"

        @hookimpl
        def sfi_register_boundaries(self, registrar):
            pass

    assert "unknown argument of sfi_register_boundaries 'registrar'; known: register." in problem_of(Bad())


def test_a_hook_under_another_name():
    class More:
        name = "more"

        @hookimpl(specname="sfi_register_boundaries")
        def more(self, register):
            register("more", Never)

    assert list(Registry([More(), Good()], discover=False).entries("boundary")) == ["more", "never"]

    class Bad:
        name = "bad"

        @hookimpl(specname="sfi_register_boundary")
        def more(self, register):
            pass

    assert problem_of(Bad()).startswith("unknown hook 'sfi_register_boundary'; known: ")


def test_a_hook_without_its_mark():
    class Bad:
        name = "bad"

        def sfi_on_event(self, event):
            pass

    assert "sfi_on_event lacks @hookimpl" in problem_of(Bad())


INSTANCE = re.escape(
    "Registry(extra=[Plugin()]), or plugin = Plugin() in its module and the entry point module:plugin"
)


def test_no_hook_at_all():
    """What a module looks like whose hooks are all in a class."""
    bad = ModuleType("bad")
    vars(bad).update(Plugin=Good, never=Never, hookimpl=hookimpl)
    assert re.fullmatch(f"has no hook: .* an instance must be named: {INSTANCE}", problem_of(bad))


def test_a_class_where_an_instance_is_needed():
    class Bad(Good):
        name = "bad"

    assert re.fullmatch(f"Bad is a class, give an instance: {INSTANCE}", problem_of(Bad))


def test_a_class_whose_hooks_need_no_instance():
    class Static:
        name = "static"

        @staticmethod
        @hookimpl
        def sfi_register_boundaries(register):
            register("static", Never)

    found = Registry([Static], discover=False)
    assert (list(found.entries("boundary")), found.problems) == (["static"], [])


def test_a_hook_that_raises():
    class Bad:
        name = "bad"

        @hookimpl
        def sfi_register_boundaries(self, register):
            register("half", Never)
            raise ZeroDivisionError("bang\nbang")

    assert problem_of(Bad()) == "ZeroDivisionError: bang bang"


@pytest.mark.parametrize("times", [1, 2])
def test_a_name_registered_twice(times, caplog):
    class Bad:
        name = "bad"

        @hookimpl
        def sfi_register_boundaries(self, register):
            for _ in range(times):
                register("mine" if times > 1 else "never", Never)

    if times > 1:
        assert "'mine' is already registered by plugin 'bad'" in problem_of(Bad())
        return
    found = Registry([Good(), Bad()], discover=False)
    assert [problem.plugin for problem in found.problems] == ["bad"]
    assert "'never' is already registered by plugin 'good'" in found.problems[0].reason
    assert caplog.messages == [f"plugin 'bad' is not in use: {found.problems[0].reason}"]


def test_a_second_plugin_of_one_name_leaves_the_first_in_use():
    seen = []

    class Observer(Good):
        @hookimpl
        def sfi_on_event(self, event):
            seen.append(event)

    found = Registry([Observer(), Good()], discover=False)
    assert found.plugins == ["good"]
    assert [(p.plugin, "this name already" in p.reason) for p in found.problems] == [("good", True)]
    found.observers.emit(events.Event(session="s", turn=1))
    assert len(seen) == 1


@pytest.fixture
def points(monkeypatch):
    """Entry points: one whose module cannot be imported, one that is fine."""
    fine = EntryPoint("fine", "tests_fine_plugin", "sfi_agent")
    monkeypatch.setitem(
        sys.modules,
        "tests_fine_plugin",
        SimpleNamespace(sfi_register_boundaries=Good().sfi_register_boundaries),
    )
    broken = EntryPoint("broken", "no_such_module_at_all", "sfi_agent")
    monkeypatch.setattr(registry, "entry_points", lambda group: [fine, broken])


def test_a_plugin_that_cannot_be_imported(points):
    found = Registry()
    assert found.plugins == ["fine"]
    assert [problem.plugin for problem in found.problems] == ["broken"]
    assert "no_such_module_at_all" in found.problems[0].reason
    with pytest.raises(UnknownNameError, match="'broken' is not in use: ModuleNotFoundError"):
        found.create("selector", "mine")


def test_a_name_of_ours_stays_ours(monkeypatch):
    """Whatever another package calls its entry point, which here comes first in the alphabet."""
    another = SimpleNamespace(sfi_register_boundaries=Taking().sfi_register_boundaries)
    monkeypatch.setitem(sys.modules, "tests_another_plugin", another)
    theirs = EntryPoint("another", "tests_another_plugin", "sfi_agent")
    installed = [point for point in entry_points(group="sfi_agent") if point.name == "sfi_plugins"]
    monkeypatch.setattr(registry, "entry_points", lambda group: [theirs, *installed])
    found = Registry()
    assert found.plugins == ["sfi_plugins"]
    assert [(problem.plugin, problem.reason) for problem in found.problems] == [
        ("another", "boundary 'tool_call' is already registered by plugin 'sfi_plugins'")
    ]


def test_disabled_by_name(points):
    assert Registry(disabled=["broken"]).problems == []
    found = Registry(disabled=["fine"])
    assert found.plugins == []
    with pytest.raises(UnknownNameError, match=r" Plugin 'fine' is disabled\.$"):
        found.create("boundary", "never")


def test_disabled_by_the_environment(points, monkeypatch, caplog):
    monkeypatch.setenv("SFI_DISABLE_PLUGINS", " broken , fine, fien,")
    environment.cache_clear()
    try:
        found = Registry()
        assert (found.plugins, found.problems) == ([], [])
        assert caplog.messages == ["SFI_DISABLE_PLUGINS: no plugin is called fien; known: broken, fine"]
    finally:
        monkeypatch.undo()
        environment.cache_clear()


class TestCreate:
    found = Registry([Good()], discover=False)

    def test_an_unknown_name_lists_the_known(self):
        with pytest.raises(
            UnknownNameError, match=r"unknown boundary 'nevr'; known: never\. Did you mean 'never'"
        ):
            self.found.create("boundary", "nevr")

    def test_an_unknown_setting_lists_the_known(self):
        with pytest.raises(UnknownNameError, match="'time'; known: times"):
            self.found.create("boundary", "never", {"time": 2})

    def test_a_setting_of_the_wrong_type(self):
        with pytest.raises(SettingError, match=r"never\.times") as error:
            self.found.create("boundary", "never", {"times": "many"})
        assert "\n" not in str(error.value)

    def test_a_setting_is_converted(self):
        assert self.found.create("boundary", "never", {"times": "3"}).times == 3

    def test_something_else_than_it_says(self):
        class Liar:
            name = "liar"

            @hookimpl
            def sfi_register_kernels(self, register):
                register("never", Never)

        lying = Registry([Liar()], discover=False)
        with pytest.raises(PluginError, match="'liar': kernel 'never' made a Never, not a AttentionKernel"):
            lying.kernel("never", torch.device("cpu"))

    def test_no_kernel_at_all(self):
        with pytest.raises(PluginError, match="no attention kernel can run on cpu"):
            self.found.kernel("auto", torch.device("cpu"))


class Slow(TorchKernel):
    """Another package's kernel, which says nothing of ``auto``."""


class Ranked(TorchKernel):
    priority: ClassVar[int] = 10


class Best(TorchKernel):
    priority: ClassVar[int] = 99

    def unavailable(self, device):
        return "needs a unicorn" if device.type == "cpu" else None


class Unmakeable(Best):
    priority: ClassVar[int] = 100

    def __init__(self):
        raise ImportError("no unicorns")


class TestAutoKernel:
    """``auto`` is a ranking that kernels declare, not an accident of the order of registration."""

    cpu, gpu = torch.device("cpu"), torch.device("meta")

    def found(self, *, discover: bool = True, **kernels) -> Registry:
        class Plugin:
            name = "kernels"

            @hookimpl
            def sfi_register_kernels(self, register):
                for name, factory in kernels.items():
                    register(name, factory)

        return Registry([Plugin()], discover=discover)

    def test_ours(self):
        assert type(Registry().kernel("auto", self.cpu)) is GroupedKernel

    def test_one_without_a_priority_is_used_by_name_only(self):
        found = self.found(a=Slow, z=Slow, function=lambda: Slow())
        assert found.auto_kernel(self.cpu) == "grouped"
        assert type(found.kernel("a", self.cpu)) is Slow
        assert type(found.kernel("function", self.cpu)) is Slow

    def test_a_subclass_of_the_default_is_not_the_default(self):
        assert self.found(a=type("Mine", (GroupedKernel,), {})).auto_kernel(self.cpu) == "grouped"

    def test_equal_ranks_go_by_name(self):
        assert self.found(a=Ranked).auto_kernel(self.cpu) == "a"
        assert self.found(z=Ranked).auto_kernel(self.cpu) == "grouped"

    def test_the_best_that_can_run(self):
        found = self.found(best=Best, unmakeable=Unmakeable)
        assert found.auto_kernel(self.cpu) == "grouped"
        assert found.auto_kernel(self.gpu) == "best"
        with pytest.raises(SettingError, match="'best' cannot run on cpu: needs a unicorn"):
            found.kernel("best", self.cpu)

    def test_none_says_why(self):
        found = self.found(discover=False, best=Best, unmakeable=Unmakeable, slow=Slow)
        with pytest.raises(PluginError) as error:
            found.kernel("auto", self.cpu)
        assert str(error.value) == (
            "no attention kernel can run on cpu. Kernel 'unmakeable': ImportError: no unicorns. "
            "Kernel 'best': needs a unicorn. Kernel 'slow': is used by its name only."
        )
