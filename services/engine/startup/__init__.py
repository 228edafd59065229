"""From settings to a service with a model: loaded, measured, checked and described.

Read `application.py` first: the steps of a start, in their order. `exactness.py` (by `probe.py`) and
`flash_attention.py` choose what has to be measured, within the budget of `measuring.py`, which remembers what was
found: raise the version beside a measurement when you change it, or later starts believe the old one.
"""
