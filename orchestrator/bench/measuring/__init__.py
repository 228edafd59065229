"""How it is measured: one run while all others idle, rounds of runs, and what the machine says meanwhile.

Read `bench` first, then `halving`: which cases run again, and for how long.
"""
