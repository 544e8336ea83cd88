"""The pretend accelerator behaves as a GPU where it matters. In a process of its own each time."""

import subprocess
import sys

import pytest

from engine.core.catalog import ROOT

SETUP = """
import sys
sys.path.insert(0, {root!r})
import torch
from tests.device import simulated
simulated.register(float64={float64})
x = torch.arange(6.0).reshape(2, 3).to("sim")

def refused(kind, act):
    try:
        act()
    except kind as error:
        return str(error)
    raise AssertionError("it was let pass")
"""


def run(code: str, *, float64: bool = True) -> None:
    whole = SETUP.format(root=str(ROOT), float64=float64) + code
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, timeout=250, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr


CASES = {
    "it is torch's accelerator": """
assert torch.accelerator.current_accelerator().type == "sim"
assert x.device == torch.device("sim", 0)
assert torch.equal((x @ x.mT).cpu(), x.cpu() @ x.cpu().mT)
""",
    "two devices are refused": """
assert "same device" in refused(RuntimeError, lambda: x + torch.ones(3))
assert "same device" in refused(RuntimeError, lambda: torch.ones(3) @ x.mT)
assert "cpu()" in refused(TypeError, x.numpy)
x + torch.tensor(1.0)
x[torch.tensor([0])]
""",
    "each wait is counted, with its place": """
with simulated.watched() as seen:
    float(x.sum()), x.tolist(), x.cpu(), bool((x > 1).any()), x.nonzero()
    (x * 2).sum()
assert sum(seen.waits.values()) == 5, seen
assert seen.downloads == 1
with simulated.watched() as seen:
    torch.ones(3).to("sim") + x
assert (seen.uploads, seen.waits.total()) == (1, 0), seen
from engine.core.reversible import compare
with simulated.watched() as seen:
    compare(x, x + 1)
assert all(place.startswith("engine/core/reversible.py:") for place in seen.places), seen
""",
    "networks train and are drawn as on the CPU": """
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    here = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))
    torch.manual_seed(0)
    there = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.SiLU(), torch.nn.Linear(8, 1))
there.to("sim")
for model, data in ((here, x.cpu()), (there, x)):
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        model(data).square().mean().backward()
        optimizer.step()
for one, other in zip(here.parameters(), there.parameters()):
    assert other.device.type == "sim"
    torch.testing.assert_close(one, other.cpu())
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_pretend_accelerator(case):
    run(CASES[case])


@pytest.mark.slow
def test_float64_is_refused_as_mps_refuses_it_and_then_stays_on_the_cpu():
    run(
        """
from engine.core.precision import has_float64, wide
assert "no float64" in refused(TypeError, x.double)
assert "no float64" in refused(TypeError, lambda: torch.ones(2, dtype=torch.float64).to("sim"))
assert not has_float64("sim")
assert has_float64("cpu")
assert wide(x).device.type == "cpu"
assert torch.equal(wide(x), torch.arange(6.0).double().reshape(2, 3))
""",
        float64=False,
    )


@pytest.mark.slow
def test_float64_stays_on_a_device_that_has_it():
    run(
        """
from engine.core.precision import wide
assert wide(x).device.type == "sim"
assert wide(x).dtype == torch.float64
"""
    )


WALKS = """
from engine.diffusion import grids, schedules
from engine.diffusion.denoiser import Model
from engine.diffusion.noise import Noise
from engine.diffusion.solvers import SOLVERS, run

path = schedules.vp()
z = torch.randn(2, 3, 4, 4).to("sim")
walks = [(name, {}) for name in SOLVERS]
walks += [("pc", {"corrector": "langevin", "norms": norms}) for norms in ("batch", "sample")]
for name, options in walks:
    model = Model(lambda x, label: x * label[:, None, None, None], path, "eps", "t", device="sim")
    with simulated.watched() as seen:
        end = run(name, model, z, grids.uniform_t(path, 24), Noise(3), **options)
    assert end.device.type == "sim", name
    # one look at the end, whether the state is finite
    assert seen.waits.total() <= 1, (name, seen.places)
    # the labels of all steps at once, of those between them too, and the noise of stochastic steps
    is_noisy = name == "pc" or SOLVERS[name].stochastic
    assert seen.uploads <= 1 + (name == "rk4") + 50 * is_noisy, (name, seen.uploads)
"""


@pytest.mark.slow
@pytest.mark.parametrize("float64", [True, False], ids=["float64", "no float64"])
def test_no_solver_makes_the_host_wait_within_its_walk(float64):
    run(WALKS, float64=float64)


@pytest.mark.slow
def test_an_edit_is_brought_home_with_one_wait_however_many_tensors_it_has():
    run(
        """
from engine.core.baked import Baked
from engine.core.patch import Patch
from engine.core.recipe import Recipe
old = {str(n): torch.randn(4, 3).to("sim") for n in range(30)}
new = {name: tensor * 1.5 for name, tensor in old.items()}
with simulated.watched() as seen:
    patch = Patch.between(old, new, Recipe("bench"))
    applied = patch.apply(old)
    baked = Baked.of("edit", patch, old)
assert all(tensor.device.type == "sim" for tensor in applied.values())
assert seen.waits.total() <= 3, seen.places
assert baked.undone == baked.before
"""
    )
