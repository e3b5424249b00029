"""Addresses and networks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.networks import Networks, normal_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:0201", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("unix", "unix"),
        ("", ""),
        ("192.0.2.1%eth0", ""),
        ("fe80::1%", ""),
        ("192.0.2.01", ""),
        ("192.0.2.1:80", ""),
        ("[::1]", ""),
        ("example.com", ""),
        ("3221225985", ""),
        ("1" * 1000, ""),
    ],
)
def test_an_address_has_one_spelling(text: str, expected: str) -> None:
    assert normal_address(text) == expected


@pytest.mark.parametrize(
    ("cidrs", "address", "inside"),
    [
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
        (["::ffff:10.0.0.0/104"], "11.1.2.3", False),
        (["192.0.2.1"], "192.0.2.1", True),
        (["192.0.2.1"], "192.0.2.2", False),
        (["10.1.2.3/8"], "10.9.9.9", True),
        (["2001:db8::/32"], "2001:db8:1::1", True),
        (["2001:db8::/32"], "2001:db9::1", False),
        (["fe80::/10"], "fe80::1%eth0", True),
        (["::/0"], "10.0.0.1", False),
        (["::/0"], "::1", True),
        (["0.0.0.0/0"], "::1", False),
        (["0.0.0.0/0"], "::ffff:1.2.3.4", True),
        (["0.0.0.0/0", "::/0"], "unix", False),
        (["unix"], "unix", True),
        (["unix"], "127.0.0.1", False),
        (["10.0.0.0/8"], "garbage", False),
        (["10.0.0.0/8"], "", False),
        ([], "10.0.0.1", False),
    ],
)
def test_membership(cidrs: list[str], address: str, inside: bool) -> None:
    networks = Networks(cidrs)
    assert networks.contains(address) is inside
    assert (address in networks) is inside


@pytest.mark.parametrize("cidr", ["", "10.0.0.0/33", "example.com", "10.0.0.0/8/8"])
def test_what_is_no_network_is_refused(cidr: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        Networks([cidr])


def test_networks_compare_by_value_and_know_whether_they_are_empty() -> None:
    assert Networks(["unix"]) == Networks(["unix"])
    assert hash(Networks(["unix"])) == hash(Networks(["unix"]))
    assert Networks(["unix"]) != Networks([])
    assert Networks(["unix"]) and not Networks()


@given(st.text(max_size=50))
def test_any_text_is_taken(text: str) -> None:
    networks = Networks(["0.0.0.0/0", "::/0"])
    assert networks.contains(text) is (normal_address(text) not in ("", "unix"))


@given(st.ip_addresses())
def test_the_normal_form_is_normal(address: object) -> None:
    once = normal_address(str(address))
    assert once and normal_address(once) == once
