"""Whether a server can listen at a Unix socket."""

from __future__ import annotations

import errno
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from services.frame.program.address import socket_path


def check_socket_free(address: str) -> None:
    """Raise OSError where no server can listen at a Unix address.

    gRPC would take the socket of a server that lives away from it; one that a dead server has left it takes rightly.
    """
    path = Path(socket_path(address))
    if not path.name:
        raise OSError(errno.EINVAL, "no path is named")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        path.parent.stat()
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "a file that is no socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # A server with a full queue is one that lives, and is not waited for.
        probe.setblocking(False)
        with suppress(FileNotFoundError, ConnectionRefusedError):
            with suppress(BlockingIOError):
                probe.connect(str(path))
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
