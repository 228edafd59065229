"""A model's file: whether it can be true, what it says, how it is loaded, and the tokens that it has.

Read `model.py` first. `gguf_header`, `gguf_rules` and `guard` refuse what llama.cpp would end the process for: drop one
of their rules only where the pinned llama.cpp refuses such a file by itself.
`vocabulary` and `steering` see to it that no text of a user becomes a token that steers the model.
"""
