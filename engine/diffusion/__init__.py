"""One sampler interface for pictures, latents, spectrograms and points in the plane.

schedules    a noising process as two functions of time, a and s
denoiser     what a network says, in every coordinate; the one counter of its evaluations
grids        where a solver stops
noise        noise by seed, sample, step and role
moves        what solvers are made of: steps, moves, the levels of a hop
solvers      from noise to data, step by step; the registry of names
predictors   the reverse of a discrete chain, with correctors; adaptive: RK45 and the likelihood
chain        a Markov chain over samples and noise levels, to start solvers near the data
inversion    from data to noise: DDIM backwards, and reversible Heun
adapters     diffusers' schedulers as solvers
mixture      a world in which the truth is known
"""
