"""The Airflow connection that holds a certificate to sign images with."""

from __future__ import annotations

import json
from collections.abc import Mapping

from airflow.sdk import BaseHook

from airflow_provider_evoimage.exceptions import ConnectionNotFoundError, ConnectionSettingsError
from airflow_provider_evoimage.images.signing import SigningIdentity, UnusableIdentityError
from airflow_provider_evoimage.version_compat import AirflowNotFoundException

CERTIFICATE_CHAIN = "certificate_chain"


def signing_identity(conn_id: str) -> SigningIdentity:
    """Read certificate and key from a connection of any type.

    The password is the private key, which Airflow encrypts and masks; the extra's ``certificate_chain`` is the
    chain. Both are PEM.

    :raises ConnectionNotFoundError: when Airflow does not find it.
    :raises ConnectionSettingsError: when it cannot be used; the message holds nothing of the key.
    """
    try:
        connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException as error:
        raise ConnectionNotFoundError(
            f"Airflow has no connection {conn_id!r}, which sign_conn_id names."
        ) from error
    try:
        extra = json.loads((connection.extra or "").strip() or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, Mapping):
        raise ConnectionSettingsError(f"The extra of connection {conn_id!r} is not a JSON object.")
    chain = extra.get(CERTIFICATE_CHAIN)
    if not isinstance(chain, str) or not chain.strip():
        raise ConnectionSettingsError(
            f"The connection {conn_id!r} has no certificate: set {CERTIFICATE_CHAIN!r} in its extra to a PEM chain."
        )
    if not connection.password:
        raise ConnectionSettingsError(
            f"The connection {conn_id!r} has no private key: put it into the password, as PEM."
        )
    try:
        return SigningIdentity.of(chain, connection.password)
    except UnusableIdentityError as error:
        raise ConnectionSettingsError(f"The connection {conn_id!r} cannot sign: {error}.") from None
