"""Links of a task instance in the Airflow UI (tab Details): its images, and the account at EvoLink."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

TASK_ROUTE = "evoimage-task"
ACCOUNT_URL = "https://evolink.ai/dashboard/credits"


class ImagesLink(BaseOperatorLink):
    """Leads to the Images tab of the task instance."""

    name = "Images"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address by ``[api] base_url``, which also has the URL prefix."""
        try:
            from airflow.sdk.configuration import conf
        except ImportError:  # Airflow 3.1.
            from airflow.configuration import conf
        del operator
        base = str(conf.get("api", "base_url", fallback="/")).rstrip("/")
        dag_id, run_id, task_id = (
            quote(each, safe="") for each in (ti_key.dag_id, ti_key.run_id, ti_key.task_id)
        )
        mapped = (
            f"/mapped/{ti_key.map_index}" if ti_key.map_index is not None and ti_key.map_index >= 0 else ""
        )
        return f"{base}/dags/{dag_id}/runs/{run_id}/tasks/{task_id}{mapped}/plugin/{TASK_ROUTE}"


class AccountLink(BaseOperatorLink):
    """Leads to the credits of the account, if the connection is to EvoLink itself."""

    name = "EvoLink account"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address; empty for another host (a simulator, a proxy), or if the task made no connection."""
        del ti_key
        # Only a hook that this process has used already: a link is not worth reading the connection.
        hook = vars(operator).get("hook")
        if hook is None or "settings" not in vars(hook):
            return ""
        from airflow_provider_evoimage.evolink.hosts import DEFAULT_BASE_URL

        host = urlsplit(hook.settings.account.base_url).hostname
        return ACCOUNT_URL if host == urlsplit(DEFAULT_BASE_URL).hostname else ""


#: Of every operator and sensor that has images.
OPERATOR_LINKS = (ImagesLink(), AccountLink())
#: Of those that have none.
ACCOUNT_LINKS = (AccountLink(),)
