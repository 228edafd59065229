"""What every server needs, whatever it serves."""

import os
from importlib.metadata import version

# Before gRPC starts, which reads it once. With its event engine a message passes through a thread more on its way in:
# without, a round trip takes a tenth less. A gRPC that does not know the names would complain on stderr.
if version("grpcio").startswith("1.85."):
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
