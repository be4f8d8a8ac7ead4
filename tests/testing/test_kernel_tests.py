"""KernelTests pass a right kernel and catch wrong ones."""

import pytest
import torch

from sfi_agent.contracts import AttentionKernel
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import Registry
from sfi_agent.testing import KernelTests


class PlainKernel(AttentionKernel):
    """Gathers the memory and attends in float32; ``wrong`` names one thing it gets wrong."""

    def __init__(self, wrong=None):
        self.wrong = wrong

    def dense(self, queries, keys, values, spec):
        kv, length, _ = keys.shape
        everything = torch.arange(length).expand(kv, -1)
        return self._attend(queries, keys, values, spec, everything)

    def plan(self, keys, values, positions, tail, room):
        if self.wrong == "shared":
            positions = self.positions = getattr(self, "positions", positions)
        return positions, tail + (self.wrong == "tail"), {}

    def sparse(self, plan, queries, keys, values, spec, fresh):
        positions, tail, seen = plan
        length = keys.shape[1]
        if self.wrong in ("stale", "frozen"):
            keys, values = seen.setdefault(length, (keys.clone(), values.clone()))
        if self.wrong == "frozen":
            length = min(seen)
        if self.wrong == "longest":
            seen[length] = keys.clone(), values.clone()
            length = max(seen)
            keys, values = seen[length]
        if self.wrong == "everything":
            return self.dense(queries, keys, values, spec)
        recent = torch.arange(tail, length).expand(keys.shape[0], -1)
        return self._attend(queries, keys, values, spec, torch.cat([positions, recent], -1))

    def _attend(self, queries, keys, values, spec, places):
        new, heads, dim = queries.shape
        kv, length, _ = keys.shape
        keys, values = (
            store.gather(1, places.clamp_min(0)[..., None].expand(-1, -1, store.shape[2]))
            .float()
            .masked_fill((places < 0)[..., None], 0)
            for store in (keys, values)
        )
        split = queries.float().view(new, kv, heads // kv, dim)
        if self.wrong == "group":
            split = queries.float().view(new, heads // kv, kv, dim).transpose(1, 2)
        logits = torch.einsum("nkgd,ksd->kgns", split, keys) * spec.scaling
        if self.wrong == "scaling":
            logits = logits / spec.scaling * dim**-0.5 * 1.001
        if spec.softcap and self.wrong != "softcap":
            logits = spec.softcap * (logits / spec.softcap).tanh()
        at = torch.arange(length - new, length)[:, None]
        hidden = places[:, None, None] > at + int(self.wrong == "mask")
        if self.wrong != "unused":
            hidden = hidden | (places < 0)[:, None, None]
        if spec.window:
            hidden = hidden | (places[:, None, None] <= at - spec.window - int(self.wrong == "window"))
        logits = logits.masked_fill(hidden, -torch.inf)
        if spec.sinks is not None and self.wrong != "sinks":
            sinks = spec.sinks.float().view(kv, heads // kv, 1, 1).expand(-1, -1, new, -1)
            weights = torch.cat([logits, sinks], -1).softmax(-1)[..., :-1]
        else:
            weights = logits.softmax(-1)
        out = torch.einsum("kgns,ksd->nkgd", weights, values).reshape(new, heads, -1).to(queries.dtype)
        if self.wrong == "dtype":
            return out.float()
        if self.wrong == "unwritten":
            out = out + 0 * torch.empty_like(out)
        if self.wrong == "nan":
            out[-1, -1, -1] = torch.nan
        if self.wrong == "in_place":
            queries.mul_(2)
        return out


class ElsewhereKernel(PlainKernel):
    def unavailable(self, device):
        return "no such chip"


class Plugin:
    @hookimpl
    def sfi_register_kernels(self, register):
        register("plain", PlainKernel)
        register("elsewhere", ElsewhereKernel)


class TestPlain(KernelTests):
    name = "plain"

    def registry(self):
        return Registry(extra=[Plugin()], discover=False)


class TestEveryKernelHere(KernelTests):
    @pytest.fixture(autouse=True, params=sorted(Registry().entries("kernel")) or [None])
    def _each(self, request):
        if request.param is None:
            pytest.skip("no kernel is registered")
        self.name = request.param


F32 = torch.float32
CAUGHT = {
    "mask": lambda tests, kernel: tests.test_dense(kernel, F32, 5, 131),
    "window": lambda tests, kernel: tests.test_dense_window(kernel, 7, 17),
    "softcap": lambda tests, kernel: tests.test_sparse_softcap_and_sinks(kernel, {"softcap": 2.0}),
    "sinks": lambda tests, kernel: tests.test_dense_softcap_and_sinks(kernel, 1, {"sinks": True}),
    "group": lambda tests, kernel: tests.test_sparse_groups(kernel, 4, 2),
    "scaling": lambda tests, kernel: tests.test_dense(kernel, F32, 1, 67),
    "stale": lambda tests, kernel: tests.test_fresh_positions_are_read_anew(kernel, 3, 61),
    "frozen": lambda tests, kernel: tests.test_one_plan_serves_a_growing_context(kernel),
    "shared": lambda tests, kernel: tests.test_two_plans_live_side_by_side(kernel),
    "longest": lambda tests, kernel: tests.test_a_rejected_draft_is_forgotten(kernel),
    "unwritten": lambda tests, kernel: tests.test_memory_it_did_not_write_is_not_read(kernel),
    "unused": lambda tests, kernel: tests.test_heads_that_remember_fewer(kernel, 1, {}),
    "tail": lambda tests, kernel: tests.test_sparse(kernel, F32, 1, 13, 40),
    "everything": lambda tests, kernel: tests.test_sparse(kernel, F32, 1, 13, 40),
    "nan": lambda tests, kernel: tests.test_a_memory_of_everything_is_dense(kernel, 40),
    "in_place": lambda tests, kernel: tests.test_its_input_is_left_alone(kernel),
    "dtype": lambda tests, kernel: tests.test_dense(kernel, torch.bfloat16, 1, 67),
}


@pytest.mark.parametrize("wrong", CAUGHT)
def test_a_wrong_kernel_is_caught(wrong):
    CAUGHT[wrong](TestPlain(), PlainKernel())
    with pytest.raises(AssertionError):
        CAUGHT[wrong](TestPlain(), PlainKernel(wrong))


def test_a_kernel_that_cannot_run_here_is_skipped_with_its_reason():
    class Elsewhere(TestPlain):
        name = "elsewhere"

    with pytest.raises(pytest.skip.Exception, match="no such chip"):
        Elsewhere.kernel.__wrapped__(Elsewhere())
