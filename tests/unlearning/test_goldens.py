"""The golden cases of the whole family: what published code gave, and what runs here."""

import pytest

from engine.core.golden import check_all
from engine.core.job import finish
from engine.unlearning.corrective import golden as corrective
from engine.unlearning.refresh_learning import golden as refresh_learning
from engine.unlearning.restor import golden as restor
from engine.unlearning.smoothinv import golden as smoothinv
from engine.unlearning.ssd import golden as ssd
from engine.unlearning.ununlearning import golden as ununlearning

CHECKS = {
    **ssd.CHECKS,
    **corrective.CHECKS,
    **restor.CHECKS,
    **ununlearning.CHECKS,
    **refresh_learning.CHECKS,
    **smoothinv.CHECKS,
}


@pytest.mark.golden
@pytest.mark.parametrize("name", CHECKS)
def test_published_code_and_this_one_agree(name: str):
    for case in finish(check_all({name: CHECKS[name]})).cases:
        assert case.error <= case.tolerance, case
