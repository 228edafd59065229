"""The session protocol, both halves: which prefix a request builds on, what a service holds, and what a miss does.

A session is a cache and never the truth: a service that lacks the prefix says so, and the caller sends it again. So
every request can be repeated, and a restart costs time and nothing else.

`client` is the caller's half, `exchange` the service's; `sequence` has the digest that both keep of every prefix. Read
`ServiceSession.request` first: it is a cache miss from beginning to end. Before you change which ids are retries or
supersede others, what is answered to whom, or a digest, read docs/protocol.md: that is promised to clients in any
language.
"""
