"""The draft service: it proposes tokens, under the same noise as the target will use, and says how sure it is of each.

Read `proposal.py` first; `servicer.py` makes work of requests. A proposal changes how quick a text comes, and never the
text.
"""
