"""Addresses: what they name, and what never leaves them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsar.errors import InputError
from fsar.pipeline.share import is_address, parse_address

PIN = "ab" * 32


@pytest.mark.parametrize("text", ["ssv2.zarr", "/data/ssv2.zarr", "C:/ssv2.zarr", "../x.h5", ""])
def test_paths_are_no_addresses(text):
    assert not is_address(text)


def test_parts_of_an_address():
    address = parse_address(f"https://data.lab.org:8443/group/my%20store.zarr?sig=secret#sha256={PIN}")
    assert (address.scheme, address.query, address.pin) == ("https", "sig=secret", PIN)
    assert address.name == "my store.zarr"
    assert address.parent == "https://data.lab.org:8443/group"
    assert str(address) == f"https://data.lab.org:8443/group/my%20store.zarr#sha256={PIN}"
    assert str(address.child("a b")) == "https://data.lab.org:8443/group/my%20store.zarr/a%20b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ftp://host/x.zarr", "unknown scheme"),
        ("https://user:secret@host/x.zarr", "user or password"),
        ("s3://KEY:secret@bucket/x.zarr", "user or password"),
        ("https:///x.zarr", "names no host"),
        ("https://host:port/x.zarr", "is no host"),
        ("file://host/x.zarr", "three slashes"),
        ("https://host/../x.zarr", "must not hold"),
        ("https://host/%2e%2e/x.zarr", "must not hold"),
        ("https://host/a//x.zarr", "empty part"),
        ("https://host/x.zarr#md5=12", "sha256="),
        (f"https://host/x.zarr#sha256={PIN.upper()}", "sha256="),
        ("https://host/x\n.zarr", "control characters"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_address(text)
    assert "secret" not in str(error.value)


@given(st.text(max_size=60))
def test_any_text_gives_an_address_or_one_clear_error(text):
    try:
        address = parse_address(f"https://{text}")
    except InputError:
        return
    assert address.query not in str(address) or not address.query or address.query in address.location
    assert ".." not in address.location.split("/")
