"""The orchestrator: it owns the token sequences, drives the cycle between a draft and a target, and serves clients.

Read `generation.cycle` first. `drafting` proposes, `peers` are the two services, `cli` is the program `outrider`.
"""
