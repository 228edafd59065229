"""The llama.cpp runtime that both services share, and the only place that imports llama_cpp.

It has four floors, and none knows what is above it: `startup` loads and measures, `scheduling` decides what goes into a
decode, `runtime` decodes, `model` knows a file and its tokens. `sampling` chooses tokens, `wire` stands between the
protocol's messages and the engine.

Read `scheduling/work.py` first: what the engine does is a piece of work. Leave the variables below where they are:
they must be set before anything here loads llama.cpp.
"""

from services.frame.program.environment import set_default, unset_empty

# It complains of an empty one on stderr.
for _prefix in ("OMP_", "GOMP_"):
    unset_empty(_prefix)
# Before llama.cpp loads OpenMP, which reads them once. Threads that spin for long while they wait starve the other
# services of the machine; threads that sleep at once cost 8 ms of waking up in a decode of 1 ms. So: a short spin. With
# the policy "passive" a spin count changed nothing inside a service, so it is "active".
set_default("OMP_WAIT_POLICY", "active")
set_default("GOMP_SPINCOUNT", "10000")
