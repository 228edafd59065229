"""Which session's work goes into which decode, and when that begins. One thread decides all of it.

Read `work.py`, which also says how many rows of whom, then `engine.py`, the thread, and `scheduler.py`, its steps.
`admission.py` gives slots, `slots.py` says who sits where, `prices.py` what rows are worth. `gathering.py`,
`comparison.py` and `turns.py` say when a decode begins: they are tuned by measurements (docs/architecture.md, Company),
so measure with benchmarks/company.py what you change there.
"""
