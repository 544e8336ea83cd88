"""The published checkpoints of SGMSE+ as folders that can be loaded here.

    python -m engine.models.speech_published train_wsj0_2cta4cov_epoch=159.ckpt my-folder

A .ckpt of PyTorch Lightning is a pickle, which may run any code when it is opened. So the server
never opens one; this command does, once, on the machine of its owner, and even here only tensors
and plain values are made: every other class in the file becomes an empty stand-in.

The weights are the moving averages (`ema`), which the file lists without names, in the order of the
network's parameters; the names come from its `state_dict`. They equal ours. Settings to sample with
(steps, snr) are not in the file: those of the paper are written, and for dereverberation others.
"""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from engine.core.errors import BadInput, ModelMismatch
from engine.models.speech import FrontEnd, Sampling, SpeechConfig, SpeechNetwork, save

PREFIX = "dnn."
SHAPES = {name: name for name in ("nf", "ch_mult", "num_res_blocks", "attn_resolutions")}
PLAIN = {
    "collections": ("OrderedDict", "defaultdict"),
    "torch": ("Size", "device", "dtype", "float32", "float16", "bfloat16", "int64"),
    "torch._utils": ("_rebuild_tensor_v2", "_rebuild_parameter"),
}


class _StandIn:
    """Takes the place of whatever else a file names, and does nothing."""

    def __init__(self, *_: object, **__: object) -> None:
        return None

    def __setstate__(self, _: object) -> None:
        return None

    def __setitem__(self, _: object, __: object) -> None:
        return None

    def append(self, _: object) -> None:
        """A list's part."""

    def extend(self, _: object) -> None:
        """A list's part."""


class _Careful(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in PLAIN.get(module, ()) or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return _StandIn


def opened(path: Path) -> dict[str, Any]:
    """The tensors and plain values of a .ckpt. Raises `BadInput` when it is none."""
    careful = SimpleNamespace(Unpickler=_Careful, load=pickle.load, __name__="pickle")
    try:
        found = torch.load(path, map_location="cpu", pickle_module=careful, weights_only=False)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError, TypeError) as error:
        raise BadInput(
            f"{path.name} cannot be read as a checkpoint ({type(error).__name__}).",
            "Download it again.",
        ) from error
    if not isinstance(found, dict) or not {"state_dict", "hyper_parameters"} <= found.keys():
        raise BadInput(
            f"{path.name} is no checkpoint of PyTorch Lightning.", "Take the .ckpt file."
        )
    return found


def config_of(settings: Mapping[str, Any], *, dereverberation: bool = False) -> SpeechConfig:
    """Our settings for those of a checkpoint; what it leaves out has the paper's value.

    Raises `ModelMismatch` for a process or a network that is another one.
    """
    for name, known in (("backbone", "ncsnpp"), ("sde", "ouve")):
        if (given := settings.get(name, known)) != known:
            raise ModelMismatch(
                f"This checkpoint has the {name} {str(given)[:40]}; {known} can be loaded.",
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
    network = {name: settings[key] for name, key in SHAPES.items() if key in settings}
    return SpeechConfig(
        front=front,
        theta=float(settings.get("theta", settings.get("gamma", 1.5))),
        sigma_min=float(settings.get("sigma_min", settings.get("sigma-min", 0.05))),
        sigma_max=float(settings.get("sigma_max", settings.get("sigma-max", 0.5))),
        t_eps=float(settings.get("t_eps", 0.03)),
        network={**network, "scale_by_sigma": bool(settings.get("scale_by_sigma", True))},
        sampling=Sampling(50, 0.33) if dereverberation else Sampling(30, 0.5),
    )


def weights_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """The averaged weights by name, without those of other parts of the training."""
    named = {name: t for name, t in checkpoint["state_dict"].items() if name.startswith(PREFIX)}
    averages = (checkpoint.get("ema") or {}).get("shadow_params")
    if averages is None:
        return named
    names = list(named)
    if len(averages) != len(names):  # older versions average what is trained, and no more
        names = [name for name in names if not name.endswith(".0.W")]
    if [tuple(t.shape) for t in averages] != [tuple(named[name].shape) for name in names]:
        raise ModelMismatch(
            "The averaged weights of this checkpoint do not fit its own list of names.",
            "Download it again.",
        )
    return named | dict(zip(names, averages, strict=True))


def adopt(path: Path, folder: Path, *, dereverberation: bool = False) -> None:
    """Write the folder of a published checkpoint.

    Raises `BadInput` or `ModelMismatch` when it is no such checkpoint.
    """
    checkpoint = opened(path)
    config = config_of(checkpoint["hyper_parameters"], dereverberation=dereverberation)
    network = SpeechNetwork(config)
    try:
        network.load_state_dict(weights_of(checkpoint))
    except RuntimeError as error:
        raise ModelMismatch(
            f"The weights do not fit the network: {str(error).splitlines()[-1].strip()[:120]}",
            "Take a checkpoint of the first release.",
        ) from error
    save(network, config, folder, half=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dereverberation", action="store_true", help="50 steps, snr 0.33")
    given = parser.parse_args()
    adopt(given.checkpoint, given.folder, dereverberation=given.dereverberation)


if __name__ == "__main__":
    main()
