"""Un-noise: running the noising of data backwards."""
