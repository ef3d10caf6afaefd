"""Users of a real Airflow who log in, each with a role of their own."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx

from tools.local_airflow.client import SECONDS_OF_RETRIES, AirflowClient

USERS = {"admin": "admin", "ada": "user", "bob": "user", "viewer": "viewer"}
# For tests alone: this Airflow is reached from this machine only.
PASSWORD = "a word that each of them knows"
# Of the administrator, for `AirflowClient`.
ADMIN = ("admin", PASSWORD)


class AirflowUsers:
    """Clients that have logged in, and the folder below which DAGs that tests write save.

    :param folder: its subfolder `dags` is read by Airflow. Of what is saved below it, files in `*/images` are shown.
    :ivar users: user name → a client that has logged in.
    :ivar anonymous: a client that has not.
    """

    def __init__(self, airflow: AirflowClient, folder: Path) -> None:
        self.airflow, self.folder = airflow, folder
        self.anonymous = self._client()
        self.users = {name: self._logged_in(name) for name in USERS}

    @staticmethod
    def settings(home: Path, folder: Path, *subfolders: str) -> dict[str, str]:
        """Write the passwords, and return the settings of an Airflow whose users log in.

        :param subfolders: each holds what one module's DAGs save.
        """
        passwords = home / "passwords.json"
        passwords.write_text(json.dumps(dict.fromkeys(USERS, PASSWORD)))
        roots = [f"file://{folder / each / 'images'}" for each in subfolders]
        return {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{n}:{role}" for n, role in USERS.items()),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__EVOIMAGE__IMAGE_ROOTS": json.dumps(roots),
            "TEST_FOLDER": str(folder),
        }

    def add_dags(self, name: str, source: str) -> None:
        """Write a DAG file, which Airflow finds within seconds. `TEST_FOLDER` is in its environment."""
        (self.folder / "dags" / f"{name}.py").write_text(source)

    def _client(self, **headers: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.airflow.url, timeout=120, trust_env=False, headers=headers, transport=_Patient()
        )

    def _logged_in(self, name: str) -> httpx.Client:
        body = {"username": name, "password": PASSWORD}
        token = self.anonymous.post("/auth/token", json=body).json()["access_token"]
        return self._client(Authorization=f"Bearer {token}")


class _Patient(httpx.HTTPTransport):
    """Sends a request again while Airflow answers with an error of the server: others may hold SQLite's lock."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        end = time.monotonic() + SECONDS_OF_RETRIES
        while (answer := super().handle_request(request)).is_server_error and time.monotonic() < end:
            answer.close()
            time.sleep(0.5)
        return answer
