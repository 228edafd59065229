"""The two services as the orchestrator sees them: found, compared, watched, and lost.

Read `backend` first: what all generations share. `target` is one session's verifications, which wait for a target that
is away and replay to it; which errors are worth another try is decided there.
"""
