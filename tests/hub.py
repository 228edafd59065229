"""A stand-in for the Hugging Face hub: what `hf_hub_download` asks of it, for the files of one repository."""

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPO = "somebody/tiny-pair"
GATED = "somebody/gated"
BROKEN = "somebody/broken"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REVISIONS = ("main", "v1", COMMIT)


class StandIn(ThreadingHTTPServer):
    """Serves `files`, by name in the repository, and remembers what was fetched.

    Attributes:
        status: what every request is answered instead, with no reason.
        num_missing: bytes at the end of every file that are not sent.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = files
        self.fetched: list[str] = []
        self.status: int | None = None
        self.num_missing = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_HEAD(self) -> None:
        repo, _, rest = self.path.removeprefix("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if self.server.status is not None:
            self._refuse(self.server.status, "")
        elif repo == GATED:
            self._refuse(403, "GatedRepo")
        elif repo == BROKEN:
            self._refuse(500, "")
        elif repo != REPO:
            self._refuse(401, "RepoNotFound")
        elif revision not in REVISIONS:
            self._refuse(404, "RevisionNotFound")
        elif name not in self.server.files:
            self._refuse(404, "EntryNotFound")
        else:
            self._serve(name)

    do_GET = do_HEAD

    def _refuse(self, code: int, reason: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", reason)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _serve(self, name: str) -> None:
        content = self.server.files[name].read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.server.fetched.append(name)
            self.wfile.write(content[: len(content) - self.server.num_missing])

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def hub(files: Mapping[str, Path]) -> Iterator[StandIn]:
    """A stand-in that serves until the end of the block."""
    with StandIn(files) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
