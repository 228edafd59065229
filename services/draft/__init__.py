"""The draft service: it proposes tokens, under the same noise as the target will use, and says how sure it is of each.

Read `servicer.py`: a request becomes a `ProposalWork`. A proposal changes how quick a text comes, and never the text.
"""
