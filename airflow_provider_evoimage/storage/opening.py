"""Opens a storage URL, and says what is missing on this machine: the store's package, or the Airflow connection."""

from __future__ import annotations

from urllib.parse import urlsplit

from airflow.sdk import BaseHook, ObjectStoragePath

from airflow_provider_evoimage.storage.stores import RefusedCredentialsError
from airflow_provider_evoimage.version_compat import AirflowNotFoundException

#: Scheme of a URL, and the extra of this package that brings it.
EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gcs",
    "gcs": "gcs",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
    "sftp": "sftp",
    "ssh": "sftp",
}
#: Amazon's provider uses the machine's own credentials if this connection does not exist, and many rely on that.
_MAY_BE_ABSENT = frozenset({"aws_default"})


class StoreNotInstalledError(Exception):
    """No installed package brings the scheme of the URL."""


class UnknownConnectionError(Exception):
    """Airflow finds no connection of the id in the URL."""


def storage_path(url: str) -> ObjectStoragePath:
    """Return the path of a URL, with its file system connected.

    :raises StoreNotInstalledError: when its package is missing.
    :raises UnknownConnectionError: when Airflow does not find the connection that the URL names: some stores would
        use the machine's own credentials instead.
    :raises RefusedCredentialsError: when the store logs in at once, as SFTP does, and is refused.
    """
    scheme, conn_id = urlsplit(url).scheme, urlsplit(url).netloc.rpartition("@")[0]
    if scheme in EXTRAS and conn_id and conn_id not in _MAY_BE_ABSENT:
        _require_connection(conn_id)
    try:
        path = ObjectStoragePath(url)
        _ = path.fs
    except PermissionError as error:
        raise RefusedCredentialsError(str(error)) from error
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and "filesystem" not in str(error).lower():
            raise
        raise StoreNotInstalledError(_not_installed(scheme)) from error
    return path


def _require_connection(conn_id: str) -> None:
    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise UnknownConnectionError(
            f"there is no Airflow connection {conn_id!r}, or a secrets backend failed"
        ) from error


def _not_installed(scheme: str) -> str:
    if scheme in EXTRAS:
        return f"{scheme}:// needs: pip install 'airflow-provider-evoimage[{EXTRAS[scheme]}]'"
    return f"no installed package knows {scheme}://; this provider has extras for {', '.join(EXTRAS)}"
