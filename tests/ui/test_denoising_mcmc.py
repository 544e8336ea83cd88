"""The panel of Denoising MCMC: what its failure preset shows."""


# ---------------------------------------------------------------------- where it breaks


def breaks(plane) -> None:
    """What the failure gallery says of it."""
    chain, noise = (s for s in plane.sides if s.integrator == "kar1")
    assert (chain.name, noise.name) == ("chain", "noise")
    assert chain.low > noise.high
