"""What Airflow reads at start-up: valid, true, and light."""

import importlib
import importlib.metadata
import importlib.resources
import inspect
import json
import re
import subprocess
import sys

import jsonschema
import pytest

from airflow_provider_evoimage.get_provider_info import get_provider_info
from airflow_provider_evoimage.hooks.connection import ConnectionSettings
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

INFO = get_provider_info()
(CONNECTION_TYPE,) = INFO["connection-types"]
SECTIONS = ("operators", "sensors", "hooks", "triggers")
MODULES = [module for section in SECTIONS for entry in INFO[section] for module in entry["python-modules"]]


def airflow_schema(name):
    # At this place in Airflow 3.1, 3.2 and 3.3.
    return json.loads((importlib.resources.files("airflow") / name).read_text(encoding="utf-8"))


def test_description_is_valid_by_airflows_own_schema():
    schema = airflow_schema("provider_info.schema.json")
    jsonschema.validators.validator_for(schema)(schema).validate(INFO)


def test_description_is_plain_json():
    assert json.loads(json.dumps(INFO)) == INFO


def test_form_behaviour_is_valid_by_airflows_own_schema():
    schema = airflow_schema("customized_form_field_behaviours.schema.json")
    jsonschema.validators.validator_for(schema)(schema).validate(EvoImageHook.get_ui_field_behaviour())


def test_form_behaviour_is_the_same_for_every_airflow():
    described = CONNECTION_TYPE["ui-field-behaviour"]
    assert EvoImageHook.get_ui_field_behaviour() == {
        "hidden_fields": described["hidden-fields"],
        "relabeling": described["relabeling"],
        "placeholders": described["placeholders"],
    }


@pytest.mark.parametrize("module", MODULES)
def test_every_named_module_exists(module):
    assert importlib.import_module(module)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_module_with_something_to_import_is_named(section):
    package = importlib.import_module(f"airflow_provider_evoimage.{section}")
    suffix = {"operators": "Operator", "sensors": "Sensor", "hooks": "Hook", "triggers": "Trigger"}[section]
    named = {module for entry in INFO[section] for module in entry["python-modules"]}
    found = set()
    for file in importlib.resources.files(package).iterdir():
        if file.name.endswith(".py") and file.name != "__init__.py":
            module = importlib.import_module(f"{package.__name__}.{file.name.removesuffix('.py')}")
            if any(
                inspect.isclass(value) and value.__module__ == module.__name__ and name.endswith(suffix)
                for name, value in vars(module).items()
            ):
                found.add(module.__name__)
    assert named == found


def test_integrations_are_those_that_the_sections_name():
    integrations = {entry["integration-name"] for entry in INFO["integrations"]}
    assert {entry["integration-name"] for section in SECTIONS for entry in INFO[section]} == integrations


def test_connection_type_is_the_hooks():
    module, _, name = CONNECTION_TYPE["hook-class-name"].rpartition(".")
    hook = getattr(importlib.import_module(module), name)
    assert hook is EvoImageHook
    assert CONNECTION_TYPE["connection-type"] == hook.conn_type
    assert CONNECTION_TYPE["hook-name"] == hook.hook_name


def test_form_fields_are_exactly_what_the_settings_read():
    read = re.findall(r"extra\.\w+\(\s*\"(\w+)\"", inspect.getsource(ConnectionSettings.read))
    assert sorted(read) == sorted(CONNECTION_TYPE["conn-fields"])


def test_hook_documents_every_form_field():
    for name in CONNECTION_TYPE["conn-fields"]:
        assert f"``{name}``" in EvoImageHook.__doc__


def test_every_form_field_may_be_left_empty():
    for name, field in CONNECTION_TYPE["conn-fields"].items():
        assert "null" in field["schema"]["type"], name
        assert field["label"]
        assert field["description"]


def test_package_name_is_the_canonical_name_of_the_distribution():
    name = importlib.metadata.metadata("airflow-provider-evoimage")["Name"]
    assert INFO["package-name"] == name
    # Airflow refuses every provider of an installation where one is named otherwise.
    assert name == re.sub(r"[-_.]+", "-", name).lower()


def test_entry_point_leads_to_the_description():
    (entry_point,) = importlib.metadata.distribution("airflow-provider-evoimage").entry_points.select(
        group="apache_airflow_provider"
    )
    assert entry_point.name == "provider_info"
    assert entry_point.load() is get_provider_info


def test_reading_the_description_imports_only_the_defaults():
    program = (
        "import sys; from airflow_provider_evoimage.get_provider_info import get_provider_info as info; info();"
        "print('\\n'.join(sys.modules))"
    )
    modules = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    ours = {name for name in modules if name.startswith("airflow_provider_evoimage")}
    assert ours == {
        "airflow_provider_evoimage",
        "airflow_provider_evoimage.defaults",
        "airflow_provider_evoimage.get_provider_info",
    }
    assert not [name for name in modules if name.partition(".")[0] in {"airflow", "httpx", "pydantic", "PIL"}]
