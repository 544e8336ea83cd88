"""The picture tabs of score SDE and denoising MCMC through the client, on the shipped network."""

import re

import pytest
from gradio_client import Client


@pytest.mark.slow
def test_a_picture_goes_to_its_latent_and_comes_back(client: Client):
    shown = str(
        client.predict(
            picture=None,
            tolerance=1e-2,
            probes=1,
            others=1,
            nfe=10,
            api_name="/score_sde_trip_panel",
        )
    )
    assert "Back again" in shown
    apart = float(re.search(r"differs by ([\d.]+) of 255", shown)[1])
    assert apart < 30
    assert "bits" in shown


@pytest.mark.slow
@pytest.mark.parametrize("model", ["score-ve", "score-vp", "score-subvp"])
def test_pictures_are_drawn_under_every_process(client: Client, model: str):
    shown = str(client.predict(model=model, nfe=10, count=2, api_name="/score_sde_draw_panel"))
    assert shown.count("<img") >= 6
    assert "probability flow" in shown


@pytest.mark.slow
@pytest.mark.parametrize("task", ["inpaint", "colourise", "class"])
def test_what_is_known_or_wanted_is_put_in(client: Client, task: str):
    shown = str(
        client.predict(
            picture=None, task=task, nfe=20, count=1, api_name="/score_sde_control_panel"
        )
    )
    assert "<img" in shown


@pytest.mark.slow
def test_chains_hand_their_states_to_an_integrator(client: Client):
    shown = str(client.predict(api_name="/denoising_mcmc_pictures_panel"))
    assert "From the chain, 10 NFE" in shown
    assert "From pure noise, 10 NFE" in shown


# ---------------------------------------------------------------------- where it breaks


def breaks(lab) -> None:
    """What the failure gallery says of it."""
    found = {point.method: point.error for point in lab.curve if point.nfe == 10}
    assert found["corrected"] > 3 * found["predictor"] > 3 * found["dpmpp_2m"]
