"""One task for each way to fail, each by itself; the tests read what its log says at the end."""

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

CASES = {
    "wrong_key": {"evoimage_conn_id": "wrong_key"},
    "unknown_host": {"evoimage_conn_id": "unknown_host", "submit_timeout": 1},
    "no_credit": {"evoimage_conn_id": "no_credit"},
    "moderation": {"prompt": "A poster [[fail:content_policy_violation]]"},
    "service_error": {"prompt": "A poster [[fail:service_error]]"},
    "expired_link": {"prompt": "A poster [[expired]]", "save_to": "{{ params.save_to }}"},
    "time_out": {"prompt": "A poster [[never]]", "timeout": 3, "poll_interval": 1},
    "no_images": {"prompt": "A poster [[results:0]]"},
    "bad_size": {"size": "1000x1000"},
    "too_dear": {"quality": "high", "max_credits": "{{ 2 * 2 }}"},
    "no_price": {"model": "some-other-model", "max_credits": 4},
}

with DAG(dag_id="failures", schedule=None, catchup=False, params={"save_to": "file:///tmp/never-used"}):
    for task_id, arguments in CASES.items():
        EvoImageGenerateOperator(
            task_id=task_id,
            **{"prompt": "A poster", "model": "gpt-image-1", "size": "1024x1024", "quality": "low"}
            | arguments,
        )
