"""The llama.cpp runtime that both services share, and the only place that imports llama_cpp."""

import os

# Before llama.cpp loads OpenMP, which reads them once. Threads that spin for long while they wait starve the other
# services of the machine; threads that sleep at once take 8 ms to wake up again on an idle virtual machine, for a decode
# of 1 ms. A short spin and then sleep does neither.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
