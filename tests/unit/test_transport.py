"""What this machine says of certificates and of Airflow, before any request."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_evoimage import transport
from airflow_provider_evoimage.exceptions import EvoLinkUnreachableError


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    """Forget what this process knows, before the test and after it."""
    cached = (transport.shared_ssl_context, transport.require_usable_proxies, transport.user_agent)
    for each in cached:
        each.cache_clear()
    yield
    for each in cached:
        each.cache_clear()


def test_certificates_of_the_machine_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert transport.shared_ssl_context() is transport.shared_ssl_context()


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(EvoLinkUnreachableError, match=r"SSL_CERT_FILE=.*none\.pem"):
        transport.shared_ssl_context()


async def test_files_are_read_once_before_the_event_loop_needs_them() -> None:
    await transport.prepare_for_asyncio()
    context, agent = transport.shared_ssl_context(), transport.user_agent()
    await transport.prepare_for_asyncio()
    assert (transport.shared_ssl_context(), transport.user_agent()) == (context, agent)


def test_airflow_without_metadata_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert "(Airflow/unknown; Python/" in transport.user_agent()
