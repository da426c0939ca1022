"""Damaged files of every kind, and what must not become of them: see ``python tests/fuzz --help``."""

import os

# One case is one thread's work: those of BLAS would only wait for each other. To be set before numpy is loaded.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
