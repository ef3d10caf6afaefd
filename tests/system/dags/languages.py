"""Prompts and file names in many scripts."""

from airflow.sdk import DAG

from airflow_provider_evoimage.operators.generate import EvoImageGenerateOperator

PROMPTS = [
    "日落时分的海报,没有文字",
    "夕焼けの海辺、水彩画",
    "해변의 노을, 수채화",
    "ملصق لغروب الشمس على البحر",
    "כרזה של שקיעה מעל הים",
    "A sunset 🌅 over the sea 🏖️ with a family 👨‍👩‍👧‍👦",
    "Ein Plakat für Äpfel & Öl — “süß”",
]

with DAG(dag_id="languages", schedule=None, catchup=False, params={"save_to": "file:///tmp/never-used"}):
    EvoImageGenerateOperator.partial(
        task_id="draw",
        model="gpt-image-1",
        quality="low",
        save_to="{{ params.save_to }}",
        filename_template="{run_id}/海报-плакат-{map_index}-{index}.{ext}",
    ).expand(prompt=PROMPTS)
