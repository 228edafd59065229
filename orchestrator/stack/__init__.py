"""A target, a draft and an orchestrator as processes on this machine, and a client of them.

Read `stack` first, then `process`: how a server is started, watched, started again and stopped.
"""
