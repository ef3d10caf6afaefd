"""Opening a storage URL says what is missing on this machine."""

import pytest

from airflow_provider_evoimage.storage import opening
from airflow_provider_evoimage.storage.opening import (
    EXTRAS,
    StoreNotInstalledError,
    UnknownConnectionError,
    storage_path,
)


def has_no_package(monkeypatch, scheme):
    """Let this Airflow know no file system of the scheme, whatever is installed beside the tests."""

    class Absent:
        def __init__(self, url):
            raise ValueError(f"No filesystem registered for scheme {scheme}")

    monkeypatch.setattr(opening, "ObjectStoragePath", Absent)


@pytest.mark.parametrize(("scheme", "extra"), EXTRAS.items())
def test_missing_package_is_named_by_its_extra(monkeypatch, scheme, extra):
    has_no_package(monkeypatch, scheme)
    with pytest.raises(StoreNotInstalledError, match=rf"airflow-provider-evoimage\[{extra}\]"):
        storage_path(f"{scheme}://shop/images")


def test_unknown_scheme_is_named():
    with pytest.raises(StoreNotInstalledError, match="no installed package knows nosuch://"):
        storage_path("nosuch://shop/images")


@pytest.mark.parametrize("scheme", EXTRAS)
def test_unknown_connection_is_found_before_the_store_falls_back_to_other_credentials(scheme):
    with pytest.raises(UnknownConnectionError, match="there is no Airflow connection 'nope'"):
        storage_path(f"{scheme}://nope@shop/images")


def test_default_connection_of_amazon_may_be_absent(monkeypatch):
    has_no_package(monkeypatch, "s3")
    with pytest.raises(StoreNotInstalledError):
        storage_path("s3://aws_default@shop/images")


def test_known_connection_is_accepted(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", '{"conn_type": "aws"}')
    has_no_package(monkeypatch, "s3")
    with pytest.raises(StoreNotInstalledError):
        storage_path("s3://shop@bucket/images")


def test_local_folder_needs_nothing(tmp_path):
    assert storage_path(f"file://{tmp_path}").path == str(tmp_path)
