"""From a request to text: the cycle, how many tokens it drafts, and what is told of it.

Read `cycle` first: it is the loop that everything else serves. `generation` runs it for one request, `servicer` checks
requests and streams answers. A length policy is what `cycle.LengthPolicy` says, `length_policy` has that of mode AUTO,
and `speculation` makes them. `answer` parts the text of a chat, `tool_calls` reads the calls in it: what they tell must
depend on the text alone, not on its pieces. The order of steps within a cycle decides what may be repeated after a
failure: change it with `services.session` at hand.
"""
