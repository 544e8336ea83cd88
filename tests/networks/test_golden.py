"""Every golden case of MEFT, RevCol and the 3-D U-Net goes through the one sequence class."""

import pytest

from engine.core.golden import check_all
from engine.core.job import finish
from engine.networks.meft import golden as meft
from engine.networks.revcol import golden as revcol
from engine.networks.reversible_unet3d import golden as unet3d

CHECKS = {**meft.CHECKS, **revcol.CHECKS, **unet3d.CHECKS}


@pytest.mark.slow
@pytest.mark.golden
@pytest.mark.parametrize("name", CHECKS)
def test_published_code_and_this_one_agree(name: str):
    for case in finish(check_all({name: CHECKS[name]})).cases:
        assert case.error <= case.tolerance, case


@pytest.mark.slow
@pytest.mark.parametrize("module", [meft, revcol, unet3d])
def test_the_panel_runs_all_of_them(module):
    assert len(finish(module.run()).cases) == sum(map(len, module.CHECKS.values()))
