"""Every action of every card runs on the pretend accelerator and gives what the CPU gives.

Once as it is, and once refusing float64 as Apple's MPS does. A failure names the operation that
mixed two devices. The waits of the host for the device are at most one a step, which is an event or
a call of a network; where there are more, they are listed by file and line.
"""

import math
from collections.abc import Iterator

import pytest

from engine.core.catalog import announced
from engine.core.job import Failed
from tests.contract.rules import job_of
from tests.device.child import Device, started
from tests.device.comparing import gaps

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ACTIONS = [
    pytest.param(entry, action, id=f"{entry.slug}-{action.name}")
    for entry in announced().values()
    for action in entry.card.actions
]
# Operations are put together from others on the device, so sums are taken in another order; walks
# of many steps and trainings multiply what that changes (Adam takes a whole step by a gradient that
# is round-off: 1.03e-3 in ten iterations of SPM). What is wrong differs in the first digits.
ROUND_OFF = 5e-3
# The host may wait once a step, to tell of it; and where models, results and files begin and end.
AT_BOTH_ENDS = 16


@pytest.fixture(scope="module", params=[True, False], ids=["float64", "no float64"])
def device(request) -> Iterator[Device]:
    with started(float64=request.param) as device:
        yield device


@pytest.fixture(scope="module")
def on_the_cpu() -> dict[str, object]:
    """Results of this process by action, since both devices are compared with them."""
    return {}


@pytest.mark.parametrize(("entry", "action"), ACTIONS)
def test_an_action_gives_on_a_device_what_it_gives_on_the_cpu(
    device, on_the_cpu, run_job, entry, action
):
    job = job_of(entry, action)
    ran = device.run(job)
    assert not isinstance(ran.end, Failed), ran.told()
    assert ran.waits.total() <= ran.steps + AT_BOTH_ENDS, ran.told()
    if job.target not in on_the_cpu:
        on_the_cpu[job.target] = run_job(job)[-1].result
    found = list(gaps(on_the_cpu[job.target], ran.end.result))
    worst = max((gap.size for gap in found), default=0.0)
    told = "\n".join(map(str, sorted(found, key=lambda gap: -gap.size)[:10]))
    assert worst <= ROUND_OFF, told
    assert math.isfinite(worst)
