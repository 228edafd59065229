"""Rows in, logits out, for as many slots as there are; what that costs, and whether it fits into memory.

Read `Runtime` in `interface.py` first: it is all that the floor above knows, and tests put a fake in its place. What
decodes take is in `decode_costs.py`. Before you change how rows are grouped or padded (`padding.py`), read
docs/exactness.md: logits must stay the same to the bit. What `LlamaRuntime` checks before a decode, llama.cpp would end
the process for.
"""
