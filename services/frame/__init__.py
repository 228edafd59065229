"""What every server needs, whatever it serves: its life from settings to exit code, and how it talks and reports.

Read `run.run_server` first, then `server.FrameServer`, which it runs. Below them lie three folders, and none imports
one above it: `telemetry` (traces and metrics), `rpc` (what goes over gRPC) and `program` (what any program of ours
does, with gRPC or without).

Importing this package sets variables that gRPC reads once, when it is imported: so nothing here may import gRPC, and
whoever uses it imports something of this package before. Change the variables only with a measurement.
"""

from services.frame.program.environment import set_default, unset_empty
from services.frame.program.version import version_of

# With an empty list of ciphers gRPC makes no connection over TLS.
unset_empty("GRPC_")
# It would log every server that says goodbye.
set_default("GRPC_VERBOSITY", "ERROR")
# With its event engine a message passes through one more thread on its way in: without it a round trip takes a tenth
# less. A gRPC that does not know the names would complain on stderr.
if version_of("grpcio").startswith("1.85."):
    set_default("GRPC_EXPERIMENTS", "-event_engine_client,-event_engine_listener")
