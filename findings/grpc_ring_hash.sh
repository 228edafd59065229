#!/usr/bin/env bash
# grpcio 1.85.1: a service config with ring_hash and `requestHashHeader` is accepted, and then every call fails with
# INTERNAL, unless GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY=true is set before grpc is imported. The header is
# part of the published policy (gRFC A76), so one expects it to work, or else the config to be refused or calls to be
# placed at random. With the variable each session stays at one server. Seen:
#   without the variable: INTERNAL hash attribute not present
#   with it: servers of each session: 1 1 1 1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.1
cat >"$folder/calls.py" <<'END'
import json
from concurrent import futures
import grpc

def server(name):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    method = grpc.unary_unary_rpc_method_handler(lambda request, context: name)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Test", {"Name": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, f"127.0.0.1:{port}"

servers = [server(name) for name in (b"a", b"b", b"c")]
config = {"loadBalancingConfig": [{"ring_hash_experimental": {"requestHashHeader": "x-session-id"}}]}
address = "ipv4:" + ",".join(address for _, address in servers)
with grpc.insecure_channel(address, options=[("grpc.service_config", json.dumps(config))]) as channel:
    call = channel.unary_unary("/Test/Name")
    try:
        names = [{call(b"", metadata=[("x-session-id", session)], timeout=10) for _ in range(20)} for session in "1234"]
        print("servers of each session:", *(len(each) for each in names))
    except grpc.RpcError as error:
        print(error.code().name, error.details())
END
without=$("$folder/venv/bin/python" "$folder/calls.py")
with=$(GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY=true "$folder/venv/bin/python" "$folder/calls.py")
printf 'without the variable: %s\nwith it: %s\n' "$without" "$with"
[ "$without" = "INTERNAL hash attribute not present" ] && [ "$with" = "servers of each session: 1 1 1 1" ]
