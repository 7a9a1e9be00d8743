"""What an API key can be limited to, and how an address or a surface is matched."""

import pytest

from tollkeeper.app import ENDPOINTS
from tollkeeper.errors import Forbidden, InvalidRequest
from tollkeeper.key_limits import MAX_LIST_LENGTH, NO_LIMITS, SURFACES, KeyLimits, make_limits


def allows(networks: list[str], address: str) -> bool:
    try:
        make_limits(networks=networks).require_address(address)
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.0/24", "192.0.2.255"),
        ("192.0.2.0/24", "::ffff:192.0.2.9"),
        ("::ffff:192.0.2.0/120", "192.0.2.9"),
        ("::ffff:192.0.2.7", "::ffff:c000:207"),
        ("2001:db8::/32", "2001:db8:ffff::1"),
        ("2001:db8::1", "2001:DB8:0::1"),
        ("fe80::/10", "fe80::1%eth0"),
        ("0.0.0.0/0", "203.0.113.1"),
    ],
)
def test_an_address_in_an_allowed_network_passes(network: str, address: str) -> None:
    assert allows([network], address)
    assert allows(["198.51.100.1", network], address)


@pytest.mark.parametrize(
    ("network", "address"),
    [
        ("192.0.2.7", "192.0.2.8"),
        ("192.0.2.0/24", "192.0.3.0"),
        ("192.0.2.0/24", "::192.0.2.1"),
        ("0.0.0.0/0", "2001:db8::1"),
        ("::/0", "192.0.2.1"),
        ("::/0", "::ffff:192.0.2.1"),
        ("2001:db8::/32", "2001:db9::"),
        ("192.0.2.0/24", ""),
        ("192.0.2.0/24", "testclient"),
        ("192.0.2.0/24", "192.0.2.1, 203.0.113.1"),
    ],
)
def test_any_other_address_is_refused(network: str, address: str) -> None:
    assert not allows([network], address)


@pytest.mark.parametrize("network", ["", "192.0.2.1/24", "192.0.2.0/33", "office", "192.0.2.0/24 ", "1" * 60, "10/8"])
def test_what_is_no_network_cannot_be_a_limit(network: str) -> None:
    with pytest.raises(InvalidRequest, match="CIDR"):
        make_limits(networks=[network])


@pytest.mark.parametrize("field", ["models", "surfaces", "networks"])
def test_a_list_is_neither_empty_nor_too_long(field: str) -> None:
    for entries in ([], ["query"] * (MAX_LIST_LENGTH + 1)):
        with pytest.raises(InvalidRequest, match=field):
            make_limits(**{field: entries})


@pytest.mark.parametrize("model", ["", " ", "x" * 201, "a\nb", " gpt-4o"])
def test_what_is_no_models_name_cannot_be_a_limit(model: str) -> None:
    with pytest.raises(InvalidRequest, match="models"):
        make_limits(models=[model])


def test_an_unknown_surface_cannot_be_a_limit() -> None:
    with pytest.raises(InvalidRequest, match="chat/completions"):
        make_limits(surfaces=["everything"])


def test_a_list_has_each_entry_once_in_its_canonical_form() -> None:
    limits = make_limits(["m", "m"], ["ws", "query", "ws"], ["::ffff:192.0.2.1", "192.0.2.1", "2001:DB8::/32"])
    assert limits == KeyLimits(("m",), ("ws", "query"), ("192.0.2.1/32", "2001:db8::/32"))
    assert make_limits() == NO_LIMITS


def test_every_metered_endpoint_is_a_surface_or_belongs_to_one() -> None:
    for endpoint in ENDPOINTS:
        allowed = set()
        for surface in SURFACES:
            try:
                make_limits(surfaces=[surface]).require_surface(endpoint.surface)
            except Forbidden:
                continue
            allowed.add(surface)
        assert len(allowed) == 1, endpoint.surface


def test_the_refusal_of_a_model_names_at_most_ten_models() -> None:
    assert str(make_limits(["a", "b"]).model_refusal().detail).endswith("its models are a, b.")
    many = make_limits([f"m{number}" for number in range(12)])
    assert str(many.model_refusal().detail).endswith("m9 and 2 more.")
