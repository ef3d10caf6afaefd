"""The plugin itself: light in every process, registered once, and closed to strangers."""

import importlib.metadata
import subprocess
import sys

from airflow.sdk import BaseOperator

from airflow_provider_evoimage.get_provider_info import get_provider_info
from airflow_provider_evoimage.links import ACCOUNT_LINKS, OPERATOR_LINKS
from airflow_provider_evoimage.plugins.images import EvoImagePlugin
from airflow_provider_evoimage.plugins.records import OUR_OPERATORS
from airflow_provider_evoimage.sensors.credits import EvoImageCreditsSensor

LOADED = """
import airflow.plugins_manager, sys, time
before = set(sys.modules)
began = time.perf_counter()
from airflow_provider_evoimage.plugins.images import EvoImagePlugin
print(f"{(time.perf_counter() - began) * 1000:.1f} ms")
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def test_loading_it_imports_no_web_framework():
    found = subprocess.run([sys.executable, "-P", "-c", LOADED], capture_output=True, text=True, check=True)
    *_, duration, modules = found.stdout.strip().splitlines()
    print(duration)
    assert set(modules.split()) <= {"airflow_provider_evoimage", "airflow"}


def test_it_is_an_entry_point_and_not_in_the_description():
    """Airflow loads no plugins from a provider's description by default, and with both it would load it twice."""
    (found,) = importlib.metadata.entry_points(group="airflow.plugins", name="evoimage")
    assert found.load() is EvoImagePlugin
    assert "plugins" not in get_provider_info()


def test_addresses_survive_a_url_prefix():
    for view in EvoImagePlugin.external_views:
        assert not view["href"].startswith("/")
        assert len(view["name"]) <= 9


def test_every_link_class_of_the_description_exists():
    for name in get_provider_info()["extra-links"]:
        module, _, attribute = name.rpartition(".")
        assert getattr(__import__(module, fromlist=[attribute]), attribute)().name


def test_every_operator_and_sensor_pushes_links_and_is_known_to_the_pages():
    info = get_provider_info()
    modules = [
        name
        for section in ("operators", "sensors")
        for each in info[section]
        for name in each["python-modules"]
    ]
    found = [
        each
        for name in modules
        for each in vars(__import__(name, fromlist=["*"])).values()
        if isinstance(each, type) and issubclass(each, BaseOperator) and each.__module__ == name
    ]
    assert len(found) >= 5
    # It has no images, so the pages do not look for them.
    found.remove(EvoImageCreditsSensor)
    assert EvoImageCreditsSensor.operator_extra_links == ACCOUNT_LINKS
    assert EvoImageCreditsSensor.__name__ not in OUR_OPERATORS
    for each in found:
        assert each.__name__ in OUR_OPERATORS
        assert each.operator_extra_links == OPERATOR_LINKS
