"""Which addresses a request to a tenant's URL may reach."""

import pytest

from tollkeeper.outbound.addresses import AddressRule

PUBLIC = ("1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450:4001:81b::200e")
EMBEDDED_PUBLIC = ("::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1")
NOT_PUBLIC = (
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",
    "100.127.255.255",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "168.63.129.16",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "2001::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    "64:ff9b:1::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "localhost",
    "127.1",
    "2130706433",
    "",
)


@pytest.mark.parametrize("address", PUBLIC + EMBEDDED_PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    rule = AddressRule("")
    assert rule.allows(address)
    assert not rule.is_private_but_allowed(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_every_other_address_is_refused(address: str) -> None:
    assert not AddressRule("").allows(address)


def test_only_the_listed_private_networks_are_allowed() -> None:
    rule = AddressRule("10.0.0.0/8,fd00::/8")
    assert [rule.allows(one) for one in ("10.1.1.1", "::ffff:10.1.1.1", "fd12::1")] == [True] * 3
    assert [rule.allows(one) for one in ("127.0.0.1", "192.168.0.1", "fc00::1", "::ffff:127.0.0.1")] == [False] * 4
    assert rule.is_private_but_allowed("10.1.1.1")
    assert not rule.is_private_but_allowed("1.1.1.1")
