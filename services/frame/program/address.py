"""Addresses of servers as gRPC names: HOST:PORT, dns:///NAME:PORT, ipv4:A:PORT,B:PORT or unix:/path."""

from __future__ import annotations

import ipaddress
import os
import re

_UNIX = "unix:"
# Without a port, or with one of another kind.
_OTHER_SCHEMES = ("unix-abstract:", "vsock:", "xds:")
_SCHEME = re.compile(r"(dns|ipv4|ipv6):(//[^/]*/)?")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]*\]|[^:\s]+)(:(?P<port>[^:]*))?")
# What the system takes, scheme and slashes apart.
_MOST_PATH_BYTES = 107


def is_unix_address(address: str) -> bool:
    """Whether an address, or a host to listen on, is a Unix socket: unix:/path, unix:///path or unix:path."""
    return address.startswith(_UNIX)


def socket_path(address: str) -> str:
    """Return the path of a Unix address, which may be empty."""
    return address.removeprefix(_UNIX).removeprefix("//")


def is_loopback(host: str) -> bool:
    """Whether a host to listen on lets in this machine alone: a loopback address, localhost or a Unix socket."""
    if is_unix_address(host) or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_port(text: str) -> bool:
    """Whether a text is the number of a port at which a server can be called."""
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and 0 < int(text) < 1 << 16


def split_host_and_port(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT, an address to listen on; port 0 is a free one. Raises ValueError."""
    found = _HOST_AND_PORT.fullmatch(address)
    if found is None or found["port"] is None or not (found["port"] == "0" or is_port(found["port"])):
        raise ValueError("an address to listen on is HOST:PORT, with brackets around IPv6")
    return found["host"].strip("[]"), int(found["port"])


def check_listening(address: str) -> str:
    """Return an address to listen on, which may be empty. Raises ValueError, see `split_host_and_port`."""
    if address:
        split_host_and_port(address)
    return address


def check_address(address: str) -> str:
    """Return the address, which may be empty. Raises ValueError for one at which no server can be.

    gRPC 1.85 calls port 34463 where 99999 is named, and 65535 for -1; of what it cannot read it writes several lines to
    stderr by itself.
    """
    if is_unix_address(address):
        if len(os.fsencode(socket_path(address))) > _MOST_PATH_BYTES:
            raise ValueError(f"the path of a socket has at most {_MOST_PATH_BYTES} bytes")
    elif address and not address.startswith(_OTHER_SCHEMES):
        scheme = _SCHEME.match(address)
        names = address[scheme.end() :].split(",") if scheme else [address]
        if not all(_is_host_and_port(name, scheme[1] if scheme else "dns") for name in names):
            raise ValueError("an address is HOST:PORT, with a port from 1 to 65535 and brackets around IPv6")
    return address


def split_addresses(text: str) -> list[str]:
    """Return the addresses of a list with commas between, none where it is empty.

    What follows ipv4: or ipv6: are further addresses of that one name, as long as they are numbers as well.
    """
    found: list[str] = []
    for part in map(str.strip, text.split(",")) if text else ():
        scheme = _SCHEME.match(found[-1]) if found else None
        if scheme is not None and scheme[1] != "dns" and _is_host_and_port(part, scheme[1]):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def check_addresses(text: str) -> str:
    """Return the list of addresses, which may be empty. Raises ValueError where one is wrong, or named twice."""
    addresses = split_addresses(text)
    for address in addresses:
        if not address:
            raise ValueError("addresses have one comma between, and none before or after them")
        check_address(address)
    if len(set(addresses)) < len(addresses):
        raise ValueError("an address is named twice")
    return text


def _is_host_and_port(name: str, scheme: str) -> bool:
    found = _HOST_AND_PORT.fullmatch(name)
    if found is None or not (found["port"] is None or is_port(found["port"])):
        return False
    if scheme == "dns":
        return True
    if found["port"] is None:
        return False
    version = ipaddress.IPv4Address if scheme == "ipv4" else ipaddress.IPv6Address
    try:
        version(found["host"].strip("[]"))
    except ValueError:
        return False
    return True
