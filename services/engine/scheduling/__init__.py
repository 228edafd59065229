"""Which session's work goes into which decode, and when that begins. One thread decides all of it.

Read `work.py`, then `engine.py`, the thread, and `scheduler.py`, its steps. `plan.py` says how many rows of whom,
`slots.py` who sits where, `phases.py` where the thread's time went; all three are pure. `gathering.py`, `comparison.py`
and `turns.py` say when a decode begins: they are tuned by measurements (docs/architecture.md, Company), so measure with
benchmarks/company.py what you change there.
"""
