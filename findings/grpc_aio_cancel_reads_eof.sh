#!/usr/bin/env bash
# grpcio 1.85.1: a handler of grpc.aio that reads a stream is told EOF when its caller cancels the call, as when the
# caller closes its side. One expects the read to be cancelled. That comes later, at a wait after EOF: a handler that
# returns without one takes a caller that has vanished for one that was done, and `cancelled()` says no. Seen:
#   20 calls closed: 20 read EOF, 0 were cancelled after it; cancelled() said yes 0 times
#   20 calls cancelled: 20 read EOF, 20 were cancelled after it; cancelled() said yes 0 times
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.1
"$folder/venv/bin/python" - <<'END'
import asyncio
from collections import Counter
import grpc

seen = Counter()

async def serve(messages, context):
    while (message := await context.read()) is not grpc.aio.EOF:
        await context.write(message)
    seen["read EOF"] += 1
    seen["said yes"] += context.cancelled()
    try:
        await asyncio.sleep(1.0)
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise

async def main():
    server = grpc.aio.server()
    method = grpc.stream_stream_rpc_method_handler(serve)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Test", {"Echo": method})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    found = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        for end in ("closed", "cancelled"):
            seen.clear()
            for _ in range(20):
                call = channel.stream_stream("/Test/Echo")()
                await call.write(b"a")
                await call.read()
                if end == "closed":
                    await call.done_writing()
                else:
                    call.cancel()
            await asyncio.sleep(3.0)
            print(f"20 calls {end}: {seen['read EOF']} read EOF, {seen['cancelled']} were cancelled after it; "
                  f"cancelled() said yes {seen['said yes']} times")
            found.append((seen["read EOF"], seen["cancelled"], seen["said yes"]))
    await server.stop(None)
    assert found == [(20, 0, 0), (20, 20, 0)], found

asyncio.run(main())
END
