"""The algorithms: they compute, know nothing of a browser, and run from a notebook as well."""
