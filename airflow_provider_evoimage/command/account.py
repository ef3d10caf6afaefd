"""The account that the command uses: an Airflow connection, or an API key in the environment."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.exceptions import ConnectionSettingsError
from airflow_provider_evoimage.hooks.connection import ConnectionSettings
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

KEY_VARIABLE = "EVOLINK_API_KEY"
URL_VARIABLE = "EVOLINK_BASE_URL"
FILES_URL_VARIABLE = "EVOLINK_FILES_BASE_URL"


@dataclass(kw_only=True)
class _KeyInEnvironment:
    """The environment variables as a connection that ConnectionSettings reads."""

    conn_id: str = KEY_VARIABLE
    host: str | None = None
    schema: str | None = None
    port: int | None = None
    password: str | None = None
    extra: str | None = None
    conn_type: str | None = "evoimage"


class CommandHook(EvoImageHook):
    """The hook of the command line.

    :param conn_id: id of an Airflow connection; None uses the API key in the environment if there is one,
        else the connection ``evoimage_default``.
    :param on_read: called with every generation that is read.
    """

    def __init__(self, conn_id: str | None, on_read: Callable[[Generation], None] | None = None) -> None:
        super().__init__(conn_id or self.default_conn_name)
        self._has_conn_id = conn_id is not None
        self._on_read = on_read

    @functools.cached_property
    def settings(self) -> ConnectionSettings:
        """The account.

        :raises ConnectionSettingsError: when there is neither a key nor a readable connection.
        """
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if key and not self._has_conn_id:
            files = os.environ.get(FILES_URL_VARIABLE, "").strip()
            return ConnectionSettings.read(
                _KeyInEnvironment(
                    password=key,
                    host=os.environ.get(URL_VARIABLE),
                    extra=json.dumps({"files_base_url": files}) if files else None,
                )
            )
        # As Airflow's own `airflow connections` does: connections may be in its database.
        os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
        try:
            connection = self.get_connection(self.evoimage_conn_id)
        except ConnectionSettingsError:
            raise
        except Exception as error:  # No connection, no database, a secrets backend that cannot be reached.
            raise ConnectionSettingsError(
                f"Airflow connection {self.evoimage_conn_id!r} cannot be read here "
                f"({type(error).__name__}): name one with --conn-id, or set {KEY_VARIABLE}."
            ) from error
        return ConnectionSettings.read(connection)

    def get_generation(self, evolink_task_id: str) -> Generation:
        """Read one generation, and pass it to ``on_read``."""
        generation = super().get_generation(evolink_task_id)
        if self._on_read is not None:
            self._on_read(generation)
        return generation
