"""Which addresses and host names on the public internet may be called for a user.

The list is written out instead of asking `ipaddress.is_global`, whose answer changes with the
version of Python. Source: IANA's IPv4 and IPv6 Special-Purpose Address Registries.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

Address = IPv4Address | IPv6Address

_REFUSED_IPV4 = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",  # this network, unspecified
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT; also the metadata address of some clouds
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's virtual host, which is public by number only
        "169.254.0.0/16",  # link-local, cloud metadata
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments, DS-Lite, NAT64 discovery
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)

_GLOBAL_UNICAST = ip_network("2000::/3")
# Everything outside is refused: unspecified and loopback, IPv4-mapped and IPv4-compatible, NAT64
# (64:ff9b::/96 and 64:ff9b:1::/48), discard, segment routing, unique local, link- and site-local,
# multicast, and whatever is reserved.

_REFUSED_IPV6 = tuple(
    ip_network(block)
    for block in (
        "2001::/23",  # IETF assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4 carries an IPv4 address
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PRIVATE_SUFFIXES = (
    ".localhost",
    ".local",
    ".internal",
    ".intranet",
    ".lan",
    ".home.arpa",
    ".onion",
    ".test",
    ".invalid",
)
HOST_MAX_CHARACTERS = 253


def is_public_address(address: Address) -> bool:
    """Whether the address belongs to somebody on the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in block for block in _REFUSED_IPV4)
    return (
        address.scope_id is None
        and address in _GLOBAL_UNICAST
        and not any(address in block for block in _REFUSED_IPV6)
    )


def literal_address(host: str) -> Address | None:
    """The address that an URL's host spells out (IPv6 in brackets or not), if it does.

    Raises ValueError for IPv4 in a spelling that only some readers take for an address: decimal,
    octal, hexadecimal or with fewer than four parts.
    """
    try:
        return ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        pass
    if _NUMERIC_LABEL.fullmatch(host.rsplit(".", 1)[-1].lower()):
        raise ValueError("an unusual spelling of an IPv4 address")
    return None


def is_public_name(host: str) -> bool:
    """Whether the lower-case ASCII name may be public: several labels, no private suffix.

    Its addresses are vetted as well; this only refuses early what resolvers inside a cluster
    answer.
    """
    labels = host.split(".")
    return (
        len(host) <= HOST_MAX_CHARACTERS
        and len(labels) > 1
        and all(_LABEL.fullmatch(label) for label in labels)
        and not host.endswith(_PRIVATE_SUFFIXES)
    )
