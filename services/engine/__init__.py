"""The llama.cpp runtime that both services share, and the only place that imports llama_cpp."""

import os

# Before llama.cpp loads OpenMP, which reads it once: threads that spin while they wait starve the other services of
# the machine. Decodes of 1 ms took 20 ms on average on two busy cores with the default, 3 ms with this.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
