"""Addresses as people paste them, and which hosts are certainly not public."""

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink.hosts import (
    api_base_url,
    is_internal_host,
    is_loopback_host,
    literal_address,
    network_of_address,
    network_of_host,
)
from airflow_provider_evoimage.exceptions import ConnectionSettingsError


@pytest.mark.parametrize(
    ("address", "base_url"),
    [
        ("", "https://api.evolink.ai"),
        ("  ", "https://api.evolink.ai"),
        ("https://api.evolink.ai", "https://api.evolink.ai"),
        (" https://api.evolink.ai ", "https://api.evolink.ai"),
        ("https://api.evolink.ai/", "https://api.evolink.ai"),
        ("https://api.evolink.ai//", "https://api.evolink.ai"),
        ("https://api.evolink.ai/v1", "https://api.evolink.ai"),
        ("https://api.evolink.ai/v1/", "https://api.evolink.ai"),
        ("https://api.evolink.ai/v1/images/generations", "https://api.evolink.ai"),
        ("https://api.evolink.ai/v1/tasks/task-unified-1-a", "https://api.evolink.ai"),
        ("HTTPS://API.EVOLINK.AI", "https://api.evolink.ai"),
        ("api.evolink.ai", "https://api.evolink.ai"),
        ("api.evolink.ai/v1", "https://api.evolink.ai"),
        ("api.evolink.ai:443", "https://api.evolink.ai"),
        ("https://api.evolink.ai:443/v1", "https://api.evolink.ai"),
        ("https://api.evolink.ai:8443", "https://api.evolink.ai:8443"),
        ("https://beta-api.evolink.ai", "https://beta-api.evolink.ai"),
        ("https://direct.evolink.ai/v1", "https://direct.evolink.ai"),
        ("https://proxy.example.com/evolink/v1", "https://proxy.example.com/evolink"),
        ("https://proxy.example.com/v10", "https://proxy.example.com/v10"),
        ("localhost:8585", "http://localhost:8585"),
        ("http://localhost:8585/v1", "http://localhost:8585"),
        ("127.0.0.1:8585", "http://127.0.0.1:8585"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://127.1:8585", "http://127.1:8585"),
        ("https://127.0.0.1:8585", "https://127.0.0.1:8585"),
        ("[::1]:8585", "http://[::1]:8585"),
        ("http://[::1]:8585/v1", "http://[::1]:8585"),
        ("https://[2001:db8::1]", "https://[2001:db8::1]"),
        ("https://10.1.2.3:8443", "https://10.1.2.3:8443"),
        ("https://evolink_proxy.internal", "https://evolink_proxy.internal"),
    ],
)
def test_address_as_people_paste_it_becomes_the_base_url(address, base_url):
    assert api_base_url(address) == base_url


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://evolink.ai", "web site, not its API: use https://api.evolink.ai"),
        ("evolink.ai", "web site, not its API"),
        ("https://www.evolink.ai/gpt-image-1", "web site, not its API"),
        ("https://docs.evolink.ai/en/quickstart", "web site, not its API"),
        ("http://api.evolink.ai", "unencrypted: use https://api.evolink.ai"),
        ("http://10.0.0.1:8585", "unencrypted"),
        ("http://host.docker.internal:8585", "unencrypted"),
        ("https://user:secret@api.evolink.ai", "bare address"),
        ("https://sk-evo-abc@api.evolink.ai", "bare address"),
        ("ftp://:sk-evo-abc@x y", "host 'ftp://x y' is not the address of an HTTP API"),
        ("user:sk-evo-abc@secret@my host", "host 'my host' is not the address of an HTTP API"),
        ("sk-evo-abc\nsecret@api.evolink.ai", "host 'api.evolink.ai' is not the address of an HTTP API"),
        ("https://api.evolink.ai?key=secret", "bare address"),
        ("https://api.evolink.ai/#top", "bare address"),
        ("ftp://api.evolink.ai", "not the address of an HTTP API"),
        ("file:///etc/passwd", "not the address of an HTTP API"),
        ("https://", "not the address of an HTTP API"),
        ("://", "not the address of an HTTP API"),
        ("http://[", "not the address of an HTTP API"),
        ("[::1", "not the address of an HTTP API"),
        ("api.evolink.ai:99999", "not the address of an HTTP API"),
        ("api.evolink.ai:port", "not the address of an HTTP API"),
        ("my host", "not the address of an HTTP API"),
        ("a..b", "not the address of an HTTP API"),
        ("a\0b", "not the address of an HTTP API"),
        ("https://api.evolink.ai/a b", "not the address of an HTTP API"),
        (f"https://{'a' * 64}.example.com", "not the address of an HTTP API"),
        ("https://１２７.０.０.１", "not the address of an HTTP API"),  # noqa: RUF001 (wide digits)
    ],
)
def test_address_that_cannot_be_the_apis_is_refused_in_words(address, words):
    with pytest.raises(ConnectionSettingsError, match=words) as caught:
        api_base_url(address)
    assert "secret" not in str(caught.value)
    assert "sk-evo-abc" not in str(caught.value)


@settings(deadline=None)
@given(address=st.text() | st.from_regex(r"(https?://)?[a-z0-9.:\[\]@ %_-]*(/.*)?", fullmatch=True))
def test_any_text_is_a_usable_base_url_or_refused_in_words(address):
    try:
        base_url = api_base_url(address)
    except ConnectionSettingsError:
        return
    assert httpx.URL(base_url).scheme in {"http", "https"}
    assert api_base_url(base_url) == base_url
    if base_url.startswith("http://"):
        assert is_loopback_host(httpx.URL(base_url).host)


INTERNAL = [
    *("localhost", "LOCALHOST", "localhost.", "app.localhost", "printer.local", "db.internal", "nas.lan"),
    *("box.home.arpa", "127.0.0.1", "127.1", "127.255.255.255", "0x7f000001", "2130706433", "017700000001"),
    *("0.0.0.0", "0", "10.0.0.1", "10.1", "172.16.0.1", "172.31.255.255", "192.168.0.1", "169.254.169.254"),
    *(
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "[::1]",
        "fe80::1",
    ),
    *("fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1"),
    *("[::ffff:7f00:1]", "2001:db8::1"),
]
PUBLIC = [
    *("api.evolink.ai", "files.evolink.ai.", "8.8.8.8", "134744072", "1.1.1.1", "172.32.0.1", "172.15.0.1"),
    *("192.167.0.1", "100.128.0.1", "2001:4860:4860::8888", "[2606:4700::1]", "::ffff:8.8.8.8", ""),
    *("localhost.example.com", "local", "mylocal", "internal.example.com", "10.0.0.1.example.com", "a\0b"),
]


@pytest.mark.parametrize("host", INTERNAL)
def test_host_inside_a_network_is_internal(host):
    assert is_internal_host(host) is True


@pytest.mark.parametrize("host", PUBLIC)
def test_host_that_may_be_public_is_not_internal(host):
    assert is_internal_host(host) is False


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost", True),
        ("x.localhost", True),
        ("127.0.0.1", True),
        ("127.9", True),
        ("::1", True),
        ("[::1]", True),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("printer.local", False),
        ("", False),
    ],
)
def test_only_this_machine_is_loopback(host, is_loopback):
    assert is_loopback_host(host) is is_loopback


@settings(deadline=None)
@given(host=st.text())
def test_any_text_is_judged_as_a_host_without_an_exception(host):
    assert is_internal_host(host) in (True, False)
    assert is_loopback_host(host) in (True, False)


@settings(deadline=None)
@given(address=st.ip_addresses())
def test_every_spelling_of_an_address_is_judged_alike(address):
    assert is_internal_host(str(address)) is not (network_of_address(address) == "public")
    assert literal_address(f"[{address}]") == address
    if address.version == 4:
        assert literal_address(str(int(address))) == address
        assert literal_address(hex(int(address))) == address
        assert is_internal_host(f"::ffff:{address}") is is_internal_host(str(address))


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("files.evolink.ai", "public"),
        ("8.8.8.8", "public"),
        ("[2606:4700::1111]", "public"),
        ("[64:ff9b::808:808]", "public"),
        ("127.0.0.1", "loopback"),
        ("127.8.9.1", "loopback"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("localhost.", "loopback"),
        ("10.0.0.5", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "private"),
        ("[fd12::1]", "private"),
        ("[64:ff9b::10.0.0.5]", "private"),
        ("[2002:a00:5::]", "private"),
        ("evolink.internal", "private"),
        ("169.254.169.254", "special"),
        ("2852039166", "special"),
        ("[::ffff:169.254.169.254]", "special"),
        ("[64:ff9b::a9fe:a9fe]", "special"),
        ("[fe80::1%eth0]", "special"),
        ("[fd00:ec2::254]", "special"),
        ("100.100.100.200", "special"),
        ("168.63.129.16", "special"),
        ("192.0.0.192", "special"),
        ("[fec0::1]", "special"),
        ("[64:ff9b:1::a00:1]", "special"),
        ("[::10.0.0.1]", "special"),
        ("0.0.0.0", "special"),
        ("[::]", "special"),
        ("224.0.0.1", "special"),
        ("255.255.255.255", "special"),
        ("192.0.2.1", "special"),
    ],
)
def test_every_host_lies_in_one_network(host, network):
    assert network_of_host(host) == network
