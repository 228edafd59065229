"""The two services as the orchestrator sees them: found, compared, watched, and lost.

Read `backend` first: what all generations share. `target` is one session's verifications, `draft_model` takes their
place where the draft model answers by itself. Both wait for a service that is away and replay to it: `patient_session`
decides which errors are worth another try.
"""
