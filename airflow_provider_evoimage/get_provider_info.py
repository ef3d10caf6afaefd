"""The provider's description, which Airflow reads in every process at start-up; imports only the defaults."""

from airflow_provider_evoimage.defaults import CONNECTION_EXTRAS


def get_provider_info() -> dict[str, object]:
    """Return the description that Airflow's provider schema asks for."""
    return {
        "package-name": "airflow-provider-evoimage",
        "name": "EvoLink Images",
        "description": "Images from EvoLink's API (GPT Image and others), paid once and saved to your storage.",
        "integrations": [
            {
                "integration-name": "EvoLink Images",
                "external-doc-url": "https://docs.evolink.ai",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": "EvoLink Images",
                "python-modules": ["airflow_provider_evoimage.hooks.evoimage"],
            }
        ],
        "operators": [
            {
                "integration-name": "EvoLink Images",
                "python-modules": [
                    "airflow_provider_evoimage.operators.approval",
                    "airflow_provider_evoimage.operators.batch",
                    "airflow_provider_evoimage.operators.generate",
                    "airflow_provider_evoimage.operators.ingest",
                    "airflow_provider_evoimage.operators.renditions",
                    "airflow_provider_evoimage.operators.save",
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": "EvoLink Images",
                "python-modules": [
                    "airflow_provider_evoimage.sensors.credits",
                    "airflow_provider_evoimage.sensors.generation",
                ],
            }
        ],
        "triggers": [
            {
                "integration-name": "EvoLink Images",
                "python-modules": [
                    "airflow_provider_evoimage.triggers.batch",
                    "airflow_provider_evoimage.triggers.credits",
                    "airflow_provider_evoimage.triggers.finished",
                    "airflow_provider_evoimage.triggers.generation",
                ],
            }
        ],
        "extra-links": [
            "airflow_provider_evoimage.links.ImagesLink",
            "airflow_provider_evoimage.links.AccountLink",
        ],
        "task-decorators": [
            {"name": "evoimage", "class-name": "airflow_provider_evoimage.decorators.evoimage.evoimage_task"}
        ],
        "connection-types": [
            {
                "connection-type": "evoimage",
                "hook-class-name": "airflow_provider_evoimage.hooks.evoimage.EvoImageHook",
                "hook-name": "EvoLink Images",
                "ui-field-behaviour": {
                    # The port stays visible: without one, Airflow 3.3's Test button answers 400.
                    "hidden-fields": ["schema", "login"],
                    "relabeling": {"host": "Base URL", "password": "API key", "port": "Port"},
                    "placeholders": {
                        "host": "https://api.evolink.ai",
                        "password": "from https://evolink.ai/dashboard/keys",
                        "port": "443; Airflow 3.3's Test button needs it",
                    },
                },
                "conn-fields": {
                    "default_model": {
                        "label": "Default model",
                        "description": f"Model of requests that name none. Empty: {_default('default_model')}.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "request_timeout": {
                        "label": "Request timeout (seconds)",
                        "description": (
                            "How long one HTTP exchange with EvoLink may take in all. "
                            f"Empty: {_default('request_timeout')}."
                        ),
                        "schema": {"type": ["number", "null"], "minimum": 1},
                    },
                    "max_image_megabytes": {
                        "label": "Size of an image, at most (MB)",
                        "description": f"A larger result is not downloaded. Empty: {_default('max_image_megabytes')}.",
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
                    },
                    "download_timeout": {
                        "label": "Download timeout (seconds)",
                        "description": (
                            "How long the download of one image may take in all. "
                            f"Empty: {_default('download_timeout')}."
                        ),
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
                    },
                    "max_requests_per_second": {
                        "label": "Requests per second, at most",
                        "description": "Per process (each worker process and each triggerer). Empty: no limit.",
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
                    },
                    "files_base_url": {
                        "label": "Base URL of the files API",
                        "description": "Where references are uploaded. Empty: EvoLink's own, or the base URL.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "idempotency": {
                        "label": "Idempotency keys",
                        "description": (
                            "trusted: if an answer is lost, the request is sent again under the same key, as "
                            "EvoLink's own clients do. ignored: it is never sent again, and the task ends with "
                            "'outcome unknown'. "
                            f"Empty: {_default('idempotency')}."
                        ),
                        "schema": {"type": ["string", "null"], "enum": ["trusted", "ignored"]},
                    },
                    "idempotency_namespace": {
                        "label": "Idempotency namespace",
                        "description": (
                            "Tells apart two Airflows that run the same DAGs on one EvoLink account "
                            "(for instance staging and production)."
                        ),
                        "schema": {"type": ["string", "null"]},
                    },
                    "budget_credits_per_month": {
                        "label": "Credits per month, at most",
                        "description": (
                            "Credits that this API key may use in a month (UTC); then nothing more is submitted. Held "
                            "softly: for a hard stop give the key a limit of its own at "
                            "https://evolink.ai/dashboard/keys. Empty: no budget."
                        ),
                        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0},
                    },
                },
            }
        ],
    }


def _default(name: str) -> str:
    """Write the default of an extra field as people do: 60, not 60.0."""
    value = CONNECTION_EXTRAS[name]
    return f"{value:g}" if isinstance(value, float) else str(value)
