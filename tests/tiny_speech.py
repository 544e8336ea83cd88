"""A tiny random speech checkpoint in the layout of the shipped one, written in no time.

folder = tiny_speech(tmp_path / "tiny")
"""

from pathlib import Path

import torch

from engine.models.speech import FrontEnd, Sampling, SpeechConfig, SpeechNetwork, save

TINY = SpeechConfig(
    front=FrontEnd(8000, 254, 128, 0.2, 0.5),
    objective="denoised",
    sigma_data=0.14,
    network={"nf": 4, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": []},
    sampling=Sampling(3, 0.4),
)


def tiny_speech(folder: Path, config: SpeechConfig = TINY, *, seed: int = 0) -> Path:
    """Write a random checkpoint into `folder` and give `folder` back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SpeechNetwork(config)
        for parameter in network.parameters():
            if not parameter.any():  # layers that say nothing before training
                torch.nn.init.normal_(parameter, std=0.02)
    save(network, config, folder, half=False)
    return folder
