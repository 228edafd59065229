"""Who proposes draft tokens: the draft service, lookup in the request's own text, or nobody.

Read `drafter` first: what a drafter promises, and how several make one. `remote` is a session of the draft service.
Whatever goes wrong in here, a cycle gets an empty draft and goes on.
"""
