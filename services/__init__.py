"""The draft and the target service, and what they share: `engine` (llama.cpp), `session` (the protocol), `frame`.

Read docs/architecture.md first. Nothing in here knows the orchestrator.
"""
