"""The HTTP face: OpenAI's API and those of other servers, in the orchestrator's process, beside gRPC.

It promises the same generations as `GenerateRequest`: every answer comes of `GenerationService.generate`, and nothing
of speculation is decided here. Read `app.py` first, which has all routes, then `exchange`: a request from its bytes to
the last event of its answer. Who changes `exchange/stream.py` should know its tests: they hold backpressure, a client
that vanishes, and the end of the server.
"""
