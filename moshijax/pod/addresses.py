"""Addresses of hosts as people and clusters write them: names, IPv4 and IPv6, with or without port.

An IPv6 address has colons of its own, so that one with a port stands in brackets: `[fe80::1]:8482`.
"""

import ipaddress
import re
from typing import NamedTuple

from moshijax.system.errors import UserError


class Address(NamedTuple):
    """A host and, where one was given, a port."""

    host: str  # Without brackets.
    port: int | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


def parse(name: str, text: str) -> Address:
    """The address that a text says.

    Args:
        name: of the flag or variable, for the error.
        text: `HOST`, `HOST:PORT`, `[IPV6]`, `[IPV6]:PORT` or `IPV6`.

    Raises:
        UserError: it says none.
    """
    text = text.strip()
    if _is_ipv6(text):
        return Address(text)
    match = re.fullmatch(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[\w.-]+))(?::(?P<port>\d+))?", text)
    if match is None or (match["v6"] and not _is_ipv6(match["v6"])):
        raise UserError(
            f"{name}: {text!r} is not the address of a host: write HOST:PORT, or [IPV6]:PORT."
        )
    number = None if match["port"] is None else port(name, match["port"])
    return Address(match["v6"] or match["name"], number)


def with_port(name: str, text: str) -> Address:
    """An address that must have a port.

    Raises:
        UserError: it has none.
    """
    address = parse(name, text)
    if address.port is None:
        example = address._replace(port=8476)
        raise UserError(f"{name}: {text!r} is not HOST:PORT: add the port, such as {example}.")
    return address


def port(name: str, text: str) -> int:
    """The number of a port.

    Raises:
        UserError: it is none.
    """
    if not re.fullmatch(r"\s*[0-9]{1,5}\s*", text) or not 0 < int(text) < 65536:
        raise UserError(f"{name}: port {text!r} is not a number from 1 to 65535.")
    return int(text)


def parse_list(name: str, text: str) -> list[Address]:
    """The hosts of a list with commas, the last of which may end it.

    Raises:
        UserError: a place is empty, or a host stands there twice: ids are places in the list.
    """
    parts = [part.strip() for part in text.strip().removesuffix(",").split(",")]
    if "" in parts:
        raise UserError(
            f"{name}: place {parts.index('')} of {text!r} is empty: name every host once, in the "
            "order of their ids."
        )
    found = [parse(name, part) for part in parts]
    twice = [address for i, address in enumerate(found) if address in found[:i]]
    if twice:
        raise UserError(
            f"{name}: {twice[0]} stands twice in {text!r}: name every host once, in the order of "
            "their ids."
        )
    return found


def _is_ipv6(text: str) -> bool:
    """Whether it is one, a zone such as `%eth0` at its end included."""
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
