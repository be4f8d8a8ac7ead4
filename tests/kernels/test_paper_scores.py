"""Scores of Slow-Fast Inference's selector in two kernels, against the selector's own steps."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sfi_plugins.selectors.paper import SMALLEST_PROBABILITY
from sfi_plugins.selectors.paper import paper_scores as steps

pytest.importorskip("triton")
from sfi_kernels.paper_scores.triton import paper_scores

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PRIOR = 0.5, 0.7, 0.568, 1.8, 0.4
LIMIT, FUSED, WINDOW, TEMPERATURE, REPULSION = 0.25, True, 32, 2.0, 0.85


def drawn(heads: int, places: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Masses of which a few are large, and norms."""
    generator = torch.Generator().manual_seed(heads * places)
    mass = (4 * torch.randn(2, heads, places, generator=generator)).exp()
    return mass, torch.rand(2, heads, places, generator=generator) * 20


def agree(mass, norms, *rest):
    found = paper_scores(mass.to(DEVICE), None if norms is None else norms.to(DEVICE), *rest)
    torch.testing.assert_close(found.cpu(), steps(mass, norms, *rest), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("heads", [1, 2, 3, 8])
@pytest.mark.parametrize("places", [1, 2, 77, 2048, 2500])
def test_all_steps(heads, places):
    agree(*drawn(heads, places), *PRIOR, LIMIT, FUSED, WINDOW, TEMPERATURE, REPULSION)


@pytest.mark.parametrize(
    ("limit", "fused", "window", "temperature", "repulsion"),
    [
        (0.35, False, 32, 2.0, 0.85),
        (1.0, True, 32, 2.0, 0.85),
        (1.0, False, 32, 2.0, 0.85),
        (0.0, True, 32, 2.0, 0.85),
        (0.25, True, 1, 2.0, 0.85),
        (0.25, True, 1, 2.0, 0.0),
        (0.25, True, 7, 0.1, 3.0),
        (0.25, True, 5000, 2.0, 0.0),
    ],
)
def test_settings(limit, fused, window, temperature, repulsion):
    mass, norms = drawn(4, 301)
    agree(mass, norms, *PRIOR, limit, fused, min(window, 300), temperature, repulsion)
    agree(mass, None, *PRIOR, limit, fused, min(window, 300), temperature, repulsion)


@pytest.mark.parametrize(
    "prior", [(0.0, 0.0, 0.0, 1.0, 0.0), (9.0, 0.0, 0.0, 1.0, 0.0), (0.0, 50.0, 3.0, 0.01, 2.0)]
)
def test_priors(prior):
    agree(*drawn(3, 500), *prior, 0.9, False, WINDOW, TEMPERATURE, REPULSION)


def test_what_has_no_mass_and_no_norm_has_a_finite_score():
    mass, norms = torch.zeros(1, 3, 40), torch.zeros(1, 3, 40)
    mass[0, 0, 3], mass[0, 1, 5] = 1.0, SMALLEST_PROBABILITY
    for key_norms in (norms, None):
        agree(mass, key_norms, *PRIOR, LIMIT, FUSED, 4, TEMPERATURE, REPULSION)
        assert (
            paper_scores(
                mass.to(DEVICE),
                None if key_norms is None else key_norms.to(DEVICE),
                *PRIOR,
                LIMIT,
                FUSED,
                4,
                2.0,
                1.0,
            )
            .isfinite()
            .all()
        )


def test_mass_that_is_the_prior_is_left_as_it_is():
    uniform = torch.ones(1, 3, 64)
    agree(uniform, uniform, 0.0, 0.0, 0.0, 1.0, 0.0, LIMIT, FUSED, 1, TEMPERATURE, 0.0)


@pytest.mark.parametrize("first", ["sfi_kernels", "sfi_plugins.selectors.paper"])
def test_the_kernel_is_found_by_the_operators_name_whichever_is_imported_first(first):
    told = f"""
import importlib, torch
torch.cuda.is_available = lambda: True
importlib.import_module({first!r})
import sfi_kernels
sfi_kernels._register_operators()
import sfi_plugins.selectors.paper
assert torch._C._dispatch_has_kernel_for_dispatch_key("sfi_plugins::paper_scores", "CUDA")
"""
    subprocess.run([sys.executable, "-c", told], check=True)
