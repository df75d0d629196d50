"""Which addresses and names are public."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.core.addresses import is_public_address, is_public_name, literal_address

REFUSED = [
    "0.0.0.0",  # noqa: S104 - refused is the point
    "0.1.2.3",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.19.255.255",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::8.8.8.8",
    "64:ff9b:1::8.8.8.8",
    "100::1",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "2001:2::1",
    "2001:10::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:808:808::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:4700::1%eth0",
    "fec0::1",
    "ff02::1",
    "4000::1",
]
"""At least one of every block that is not for the public internet."""


@pytest.mark.parametrize("address", REFUSED)
def test_refused(address: str) -> None:
    assert not is_public_address(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "198.17.255.255",
        "198.20.0.1",
        "223.255.255.254",
        "2606:4700:4700::1111",
        "2a00:1450:4001::1",
        "2001:4860:4860::8888",
    ],
)
def test_public(address: str) -> None:
    assert is_public_address(ip_address(address))


@settings(deadline=None)
@given(st.ip_addresses())
def test_is_never_laxer_than_python(address) -> None:
    if not address.is_global:
        assert not is_public_address(address)


@settings(deadline=None)
@given(st.ip_addresses(v=4))
def test_every_way_to_carry_an_ipv4_address_in_ipv6_is_refused(address) -> None:
    number = int(address)
    for carrier in ("::", "::ffff:0:0", "64:ff9b::"):
        assert not is_public_address(IPv6Address(int(IPv6Address(carrier)) + number))
    assert not is_public_address(IPv6Address((0x2002 << 112) + (number << 80)))
    teredo = ip_network("2001::/32")
    assert not is_public_address(IPv6Address(int(teredo[0]) + (number << 64)))


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "127.1",
        "127.0.1",
        "00000177.1",
        "134744072",
        "010.8.8.8",
        "1.2.3.4.5",
        "256.256.256.256",
        "a.b.1",
        "example.0x1",
        "1.2.3.0X4",
    ],
)
def test_odd_spellings_of_ipv4_are_refused(host: str) -> None:
    with pytest.raises(ValueError, match="unusual spelling"):
        literal_address(host)


def test_literals_are_read() -> None:
    assert literal_address("8.8.8.8") == ip_address("8.8.8.8")
    assert literal_address("[2606:4700::1]") == ip_address("2606:4700::1")
    assert literal_address("example.com") is None
    assert literal_address("1password.com") is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "localhost",
        "kubernetes",
        "example.com.",
        ".example.com",
        "example..com",
        "metadata.google.internal",
        "printer.local",
        "api.localhost",
        "router.home.arpa",
        "-a.com",
        "a-.com",
        "a%00.com",
        "a b.com",
        "*.example.com",
        "münchen.de",
        "a" * 64 + ".com",
        "a." * 130 + "com",
    ],
)
def test_names_that_are_not_public(name: str) -> None:
    assert not is_public_name(name)


@pytest.mark.parametrize(
    "name", ["example.com", "a.b.c.example.co.uk", "xn--mnchen-3ya.de", "_dmarc.example.com"]
)
def test_public_names(name: str) -> None:
    assert is_public_name(name)
