"""Who proposes draft tokens: the draft service, lookup in the request's own text, or nobody.

Read `drafter` first: what a drafter promises, and how several make one. `remote` is a session of the draft service,
`experience` what all requests have learned of a drafter: how likely its tokens are, and how long they take.
Whatever goes wrong in here, a cycle gets an empty draft and goes on.
"""
