"""A real Airflow whose users log in, each with a role of their own."""

from __future__ import annotations

import json
from pathlib import Path

import httpx

from tools.local_airflow.airflow import LocalAirflow
from tools.local_airflow.processes import poll

USERS = {"admin": "admin", "ada": "user", "bob": "user", "viewer": "viewer"}


class AirflowWithUsers:
    """Its users, and the folder below which its DAGs save.

    :param folder: its subfolder `dags` is read by Airflow. Of what is saved below it, files in `*/images` are shown.
    :ivar users: user name → a client that has logged in.
    :ivar anonymous: a client that has not.
    """

    def __init__(self, airflow: LocalAirflow, folder: Path) -> None:
        self.airflow, self.folder = airflow, folder
        file = airflow.home / "simple_auth_manager_passwords.json.generated"
        passwords = json.loads(
            poll(lambda: file.is_file() and file.read_text(), seconds=30, what="passwords")
        )
        self.anonymous = self._client()
        self.users = {name: self._logged_in(name, password) for name, password in passwords.items()}
        airflow._http = self.users["admin"]

    @staticmethod
    def environment(folder: Path, *subfolders: str) -> dict[str, str]:
        """Return the settings of such an Airflow.

        :param subfolders: each holds what one module's DAGs save.
        """
        roots = [f"file://{folder / each / 'images'}" for each in subfolders]
        return {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{n}:{role}" for n, role in USERS.items()),
            "AIRFLOW__EVOIMAGE__IMAGE_ROOTS": json.dumps(roots),
            # A busy machine is no fault of the operator.
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "TEST_FOLDER": str(folder),
        }

    def add_dags(self, name: str, source: str) -> None:
        """Write a DAG file, which Airflow finds within seconds. `TEST_FOLDER` is in its environment."""
        (self.folder / "dags" / f"{name}.py").write_text(source)

    def _client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.airflow.url, timeout=120, trust_env=False, headers=headers)

    def _logged_in(self, name: str, password: str) -> httpx.Client:
        body = {"username": name, "password": password}
        token = self.anonymous.post("/auth/token", json=body).json()["access_token"]
        return self._client(Authorization=f"Bearer {token}")
