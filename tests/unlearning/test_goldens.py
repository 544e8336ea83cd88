"""The golden cases of the whole family: what published code gave, and what runs here."""

import pytest

from engine.core.golden import check_all
from engine.core.job import finish
from engine.unlearning.corrective import golden as corrective
from engine.unlearning.smoothinv import golden as smoothinv
from engine.unlearning.ssd import golden as ssd

CHECKS = {**ssd.CHECKS, **corrective.CHECKS, **smoothinv.CHECKS}


@pytest.mark.golden
@pytest.mark.parametrize("name", CHECKS)
def test_published_code_and_this_one_agree(name: str):
    for case in finish(check_all({name: CHECKS[name]})).cases:
        assert case.error <= case.tolerance, case
