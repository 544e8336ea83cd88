"""The algorithms: they compute, know nothing of a browser, and run from a notebook as well."""

import os

# Threads of torch that wait for work sleep. GNU OpenMP lets them spin: on two cores that a browser
# shares, a run took ten times as long. The setting is read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
