"""An HTTP proxy that tunnels what it is asked to, and remembers it."""

import selectors
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# The variables that name one.
VARIABLES = (
    *("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "GRPC_PROXY"),
)


class Proxy(socketserver.ThreadingTCPServer):
    """`requests` are the first lines of what it was asked, as in `CONNECT 127.0.0.1:4317 HTTP/1.1`."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        request = self.rfile.readline().decode().strip()
        self.server.requests.append(request)
        while self.rfile.readline().strip():
            pass
        method, _, rest = request.partition(" ")
        if method != "CONNECT":
            self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        host, _, port = rest.partition(" ")[0].rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port))) as upstream:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _tunnel(self.connection, upstream)


def _tunnel(*ends: socket.socket) -> None:
    """Pass bytes on until one end closes. The caller sends nothing before it is answered, so nothing is buffered."""
    with selectors.DefaultSelector() as selector:
        for one, other in (ends, ends[::-1]):
            selector.register(one, selectors.EVENT_READ, other)
        while True:
            for key, _ in selector.select():
                try:
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    key.data.sendall(data)
                except OSError:
                    return
                if not data:
                    return


@contextmanager
def proxying() -> Iterator[Proxy]:
    """A proxy on a free port until the end of the block."""
    with Proxy() as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
