"""The published checkpoints of SGMSE+, such as WSJ0-CHiME3 and VoiceBank-DEMAND, by folder or Hub.

They come as .ckpt of PyTorch Lightning, a pickle, which may run any code when it is opened; here
none is. Its owner, who trusts it, writes its tensors and plain settings down once, beside the
authors' code:

    c = torch.load("epoch.ckpt", map_location="cpu", weights_only=False)
    averages = {f"ema.{i}": w for i, w in enumerate(c["ema"]["shadow_params"])}
    save_file(c["state_dict"] | averages, "folder/model.safetensors")
    kinds = (int, float, str, list, tuple)
    plain = {k: v for k, v in c["hyper_parameters"].items() if isinstance(v, kinds)}
    json.dump(plain, open("folder/config.json", "w"))

Then the folder, or a Hub repository of these two files, is a model like any other. The averages
have no names: they stand in the order of the network's parameters. Settings to sample with are not
in the file; the paper's are taken, unless config.json tells them: 50 and 0.33 as "N" and "snr" for
dereverberation.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from engine.core.errors import ModelMismatch
from engine.models.speech_config import FrontEnd, Sampling, SpeechConfig

SHAPES = ("nf", "ch_mult", "num_res_blocks", "attn_resolutions")


def is_published(entries: Mapping[str, Any]) -> bool:
    """Whether these are settings as the authors' checkpoints have them."""
    return "front" not in entries and "backbone" in entries


def config_of(settings: Mapping[str, Any]) -> SpeechConfig:
    """Our settings for those of a checkpoint; what it leaves out has the paper's value.

    Raises `ModelMismatch` for a process or a network that is another one.
    """
    for name, known in (("backbone", "ncsnpp"), ("sde", "ouve")):
        if (stated := settings.get(name, known)) != known:
            raise ModelMismatch(
                f"This checkpoint has the {name} {str(stated)[:40]}; {known} can be loaded.",
                "Take one of the first release: WSJ0-CHiME3, VoiceBank-DEMAND, WSJ0-REVERB.",
            )
    if settings.get("transform_type", "exponent") != "exponent":
        raise ModelMismatch("This checkpoint compresses its spectrograms in another way.")
    front = FrontEnd(
        int(settings.get("sampling_rate", settings.get("sr", 16_000))),
        int(settings.get("n_fft", 510)),
        int(settings.get("hop_length", 128)),
        float(settings.get("spec_factor", 0.15)),
        float(settings.get("spec_abs_exponent", 0.5)),
    )
    network = {name: settings[name] for name in SHAPES if name in settings}
    return SpeechConfig(
        front=front,
        theta=float(settings.get("theta", settings.get("gamma", 1.5))),
        sigma_min=float(settings.get("sigma_min", settings.get("sigma-min", 0.05))),
        sigma_max=float(settings.get("sigma_max", settings.get("sigma-max", 0.5))),
        t_eps=float(settings.get("t_eps", 0.03)),
        network={**network, "scale_by_sigma": bool(settings.get("scale_by_sigma", True))},
        sampling=Sampling(int(settings.get("N", 30)), float(settings.get("snr", 0.5))),
    )


def weights_of(tensors: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The averaged weights by name, or the plain ones where there are no averages.

    Raises `ModelMismatch` where names or shapes are not those of the network.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    weights = {name: tensors[name] for name in expected if name in tensors}
    averages = [tensors[f"ema.{i}"] for i in range(len(tensors)) if f"ema.{i}" in tensors]
    if averages:
        names = list(expected)
        if len(averages) != len(names):  # older versions average what is trained, and no more
            names = [name for name in names if not name.endswith(".0.W")]
        if len(averages) != len(names):
            raise ModelMismatch(
                f"The file has {len(averages)} averaged weights, the network {len(names)}.",
                "Take settings and weights of the same checkpoint.",
            )
        weights |= dict(zip(names, averages, strict=True))
    for name, shape in expected.items():
        if name not in weights or tuple(weights[name].shape) != shape:
            actual = list(weights[name].shape) if name in weights else "missing"
            raise ModelMismatch(
                f"The weight {name[:80]} is {actual} in the file and {list(shape)} in the network.",
                "Take settings and weights of the same checkpoint, of the first release.",
            )
    return weights
