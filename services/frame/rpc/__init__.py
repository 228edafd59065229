"""What goes over gRPC, whatever is said: errors, health, reflection, TLS, and both ends of a connection.

Every method of a server ends with a status that has a stable reason, and every channel finds out within seconds that
its server is gone. Read `errors` first, then `handlers` for a server's side and `channel` for a client's.

The numbers of keepalive stand here and in `services.frame.server` and must fit each other. `call_status` and `health`
work around what grpc.aio does with a status that comes late and with watches that never end: read their first lines
before you make them simpler.
"""
