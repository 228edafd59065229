"""The program `outrider`: what a person types, sees and runs on one machine. Nothing here orchestrates.

Read `commands` first. What it starts is kept running by `orchestrator.stack`.
"""
