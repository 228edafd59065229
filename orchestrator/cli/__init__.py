"""The program `outrider`: what a person types, sees and runs on one machine. Nothing here orchestrates.

Read `commands` first. `stack` and `process` keep a target, a draft and an orchestrator running as processes.
"""
