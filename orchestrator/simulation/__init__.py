"""`outrider simulate`: the real cycle in virtual time, with clocks in the place of models and of the network.

What is real: the cycle, the drafter and its breaker and patience, the sessions, both services' exchanges and messages,
the scheduler with its slots and its company. What stands in: `clock` for time, `script` for what models say, `engine`
for the thread and its decodes, `connection` for gRPC. Read `run` first, which puts them together, then `scenario`, what
is simulated, and `ideal`, what it is compared with.

This is the one place of the orchestrator that imports the engine, and it needs no llama.cpp. Before you change
`Clock.apart`, read `engine`: that a step of the scheduler reads nothing that others change meanwhile is what makes it
right.
"""
