"""What every server needs, whatever it serves."""

from services.frame.program.environment import set_default, unset_empty
from services.frame.program.version import version_of

# Before gRPC is imported, which reads each once. With an empty list of ciphers it makes no connection over TLS.
unset_empty("GRPC_")
# It tells of servers that say goodbye unless it is kept to errors.
set_default("GRPC_VERBOSITY", "ERROR")
# With its event engine a message passes through a thread more on its way in: without, a round trip takes a tenth less.
# A gRPC that does not know the names would complain on stderr.
if version_of("grpcio").startswith("1.85."):
    set_default("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
