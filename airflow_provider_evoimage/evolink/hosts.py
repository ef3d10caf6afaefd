"""Addresses: EvoLink's own, and which hosts are not on the public internet (by the name alone, without a lookup)."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import Literal
from urllib.parse import urlsplit

from airflow_provider_evoimage.exceptions import ConnectionSettingsError

DEFAULT_BASE_URL = "https://api.evolink.ai"
DEFAULT_FILES_BASE_URL = "https://files-api.evolink.ai"

_SITES_FOR_PEOPLE = frozenset({"evolink.ai", "www.evolink.ai", "docs.evolink.ai"})
_STANDARD_PORTS = {"http": 80, "https": 443}
_V1_AND_AFTER = re.compile(r"/v1(/.*)?$")
_ADDRESS = re.compile(r"[!-~]+")
# User and password, which no message may show.
_USER = re.compile(r"^(\s*[a-z][a-z0-9+.-]*://)?.*@", re.DOTALL | re.IGNORECASE)
_HOST = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}\.?|[0-9a-f:.]*:[0-9a-f:.]*")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")


def literal_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an IP address in any form that a resolver takes for one (``127.1``, ``0x7f000001``, ``[::1]``)."""
    bare = host.strip("[]").partition("%")[0]
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bare))
    except (OSError, ValueError):
        return None


#: Where an address or host lies. Never fetch from a ``special`` one: link-local, reserved and multicast addresses,
#: and those where clouds keep a machine's credentials.
Network = Literal["public", "private", "loopback", "special"]

_PRIVATE = tuple(
    ipaddress.ip_network(each)
    for each in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
# Outside the link-local range: the metadata services of AWS over IPv6, Alibaba, Azure and Oracle.
_METADATA = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192"))
)
# Not reserved for Python: site-local addresses, NAT64 of one's own network, and IPv4 in IPv6 of old.
_INTERNAL_IPV6 = tuple(ipaddress.IPv6Network(each) for each in ("fec0::/10", "64:ff9b:1::/48", "::/96"))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def network_of_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Network:
    """Tell where an address lies; one that carries an IPv4 address (mapped, NAT64, 6to4) lies where that does."""
    address = _carried(address)
    if address.is_loopback:
        return "loopback"
    if address in _METADATA or any(address in network for network in _INTERNAL_IPV6):
        return "special"
    if any(address in network for network in _PRIVATE):
        return "private"
    return "public" if address.is_global and not address.is_multicast else "special"


def network_of_host(host: str) -> Network:
    """Tell where a host lies, from its literal address or from a name that never leaves a network."""
    address = literal_address(host)
    if address is not None:
        return network_of_address(address)
    if is_loopback_host(host):
        return "loopback"
    return "private" if host.lower().rstrip(".").endswith(_LOCAL_SUFFIXES) else "public"


def _carried(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


def is_loopback_host(host: str) -> bool:
    """Tell whether a host name or literal address is this machine itself."""
    address = literal_address(host)
    if address is not None:
        return address.is_loopback
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def is_internal_host(host: str) -> bool:
    """Tell whether a host is certainly not public: a private address, or a name that never leaves a network."""
    return network_of_host(host) != "public"


def api_base_url(address: str) -> str:
    """Normalise the address of EvoLink's API as people paste it: ``https://host[:port][/prefix]``.

    A missing scheme is https (http for this machine itself); trailing slashes and a trailing ``/v1`` or the
    path of an endpoint fall away.

    :raises ConnectionSettingsError: for the marketing or documentation site, for plain http to another
        machine (the API key would be sent unencrypted), and for a text that is not an address.
    """
    text = address.strip() or DEFAULT_BASE_URL
    try:
        if "://" not in text:
            host = urlsplit(f"//{text}").hostname or ""
            text = f"{'http' if is_loopback_host(host) else 'https'}://{text}"
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not _ADDRESS.fullmatch(text) or not _HOST.fullmatch(host) or parts.scheme not in {"http", "https"}:
        shown = _USER.sub(r"\1", address)
        raise ConnectionSettingsError(f"The connection's host {shown!r} is not the address of an HTTP API.")
    if host in _SITES_FOR_PEOPLE:
        raise ConnectionSettingsError(
            f"The connection's host {host} is EvoLink's web site, not its API: use {DEFAULT_BASE_URL}."
        )
    if parts.scheme == "http" and not is_loopback_host(host):
        raise ConnectionSettingsError(
            f"The connection's host http://{host} would send the API key unencrypted: use https://{host}."
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConnectionSettingsError(
            "The connection's host must be a bare address, without user, query or fragment; "
            "the API key belongs in the password field."
        )
    netloc = f"[{host}]" if ":" in host else host
    if port is not None and port != _STANDARD_PORTS[parts.scheme]:
        netloc = f"{netloc}:{port}"
    return f"{parts.scheme}://{netloc}{_V1_AND_AFTER.sub('', parts.path).rstrip('/')}"


def files_base_url(base_url: str) -> str:
    """Return the host of the files API that belongs to a base URL: EvoLink's own has one of its own."""
    host = urlsplit(base_url).hostname or ""
    return DEFAULT_FILES_BASE_URL if host.endswith(".evolink.ai") else base_url
