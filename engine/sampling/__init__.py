"""Un-noise: running the noising of data backwards."""

# The order in which a course would take them.
ORDER = ("nfe_lab", "principles", "score_sde", "mr_sampler", "denoising_mcmc", "sgmse")
