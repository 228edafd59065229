"""Addresses of servers as gRPC names: HOST:PORT, dns:///NAME:PORT, ipv4:A:PORT,B:PORT or unix:/path."""

from __future__ import annotations

import re

# Without a port, or with one of another kind.
_OTHER_SCHEMES = ("unix:", "unix-abstract:", "vsock:", "xds:")
_SCHEME = re.compile(r"^(dns|ipv4|ipv6):(//[^/]*/)?")
_HOST_AND_PORT = re.compile(r"(\[[^\]]*\]|[^:]*):(?P<port>.*)", re.DOTALL)


def is_port(text: str) -> bool:
    """Whether a text is the number of a port at which a server can be called."""
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 0 < int(text) < 1 << 16


def check_address(address: str) -> str:
    """Return the address. Raises ValueError for a port that no server has.

    gRPC 1.85 calls port 34463 where 99999 is named, and 65535 for -1.
    """
    if address.startswith(_OTHER_SCHEMES):
        return address
    for name in _SCHEME.sub("", address, count=1).split(","):
        found = _HOST_AND_PORT.fullmatch(name)
        if found and not is_port(found["port"]):
            raise ValueError("an address is HOST:PORT, with a port from 1 to 65535 and brackets around IPv6")
    return address
