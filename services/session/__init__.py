"""The session protocol, both halves: which prefix a request builds on, what a service holds, and what a miss does.

`client` is the caller's half, `exchange` the service's; `sequence` is the digest that both keep of every prefix. Read
docs/protocol.md first: which ids are retries, which supersede, and what is answered to whom is promised to clients in
any language.
"""
