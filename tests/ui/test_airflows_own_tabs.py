"""What Airflow itself shows of our tasks, in a real browser: rendered templates, names of mapped tasks, links."""

from __future__ import annotations

from tests.ui.screen import DAG, RUN, RUN_PATH, Screen
from tools.local_airflow.airflow import LocalAirflow


def test_rendered_templates_show_no_secret_of_a_url(screen: Screen):
    # A file of Airflow's own highlighting that its 3.3.2 does not hold.
    screen.expected["sqlparser_rs_wasm"] = 404
    screen.open(f"/dags/{DAG}/runs/{RUN_PATH}/tasks/waits/rendered_templates")
    screen.page.get_by_text("hooks.example").first.wait_for()
    text = screen.page.locator("body").inner_text()
    assert "https://shop.example/mug.png?***" in text
    assert [each for each in ("AKIAEXAMPLE", "5ec2e7", "letmein", "xyzzyxyzzy") if each in text] == []


def test_mapped_tasks_have_the_name_of_their_prompt(airflow: LocalAirflow, screen: Screen):
    names = {
        each["map_index"]: each["rendered_map_index"]
        for each in airflow.task_instances(DAG, RUN)
        if each["task_id"] == "mapped"
    }
    assert names == {0: "A pot of tea on a wooden table", 1: "A slice of cake"}
    screen.open(f"/dags/{DAG}/runs/{RUN_PATH}/tasks/mapped/mapped")
    screen.page.get_by_text("A slice of cake").first.wait_for()


def test_link_on_the_details_leads_to_the_tab(screen: Screen):
    screen.open(f"/dags/{DAG}/runs/{RUN_PATH}/tasks/waits/details")
    link = (
        screen.page.locator("main a, a")
        .filter(has_text="Images")
        .and_(screen.page.locator("[href$='/tasks/waits/plugin/evoimage-task'][href^='http']"))
    )
    assert link.first.get_attribute("href") == (
        f"{screen.base}/dags/{DAG}/runs/{RUN_PATH}/tasks/waits/plugin/evoimage-task"
    )
