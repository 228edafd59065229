"""What decodes of a model take, measured in a process of its own: `python -m services.engine.costs`.

Read `plan.py` first, what is measured, then `rounds.py`, in which order and until when. `measured_model.py` holds the
contexts that are measured in. `__main__.py` has what the process says on stdout, and why it waits for an answer.
"""
