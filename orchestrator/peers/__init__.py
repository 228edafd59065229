"""The two services as the orchestrator sees them: found, compared, watched, and lost.

Read `backend` first: what all generations share. `target` is one session's verifications. `patient_session` waits for a
service that is away and replays to it; which errors are worth another try is decided there.
"""
