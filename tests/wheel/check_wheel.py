"""What a user gets from the package index: `make wheel` runs this; a plain pytest run does not collect it.

Builds sdist and wheel, installs the wheel with the dependencies it declares (as of the pinned set) in a fresh
environment, and asks that environment's Airflow what it sees.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2]
PACKAGE = "airflow_provider_evoimage"
DISTRIBUTION = "airflow-provider-evoimage"
EXAMPLES = PROJECT / "example_dags"
URLS = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
# What Airflow's DAG processor would parse, as JSON: the files that fail, and the DAGs by bundle.
BUNDLES = """
import json
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import DagBag

parsed = {}
for bundle in DagBundlesManager().get_all_dag_bundles():
    bag = DagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
    parsed[bundle.name] = {"dags": sorted(bag.dags), "errors": bag.import_errors}
print(json.dumps([parsed]))
"""
REQUIREMENTS = PROJECT / ".ci" / "requirements" / f"airflow-{version('apache-airflow')}.txt"


def run(*command: str | Path, cwd: Path = PROJECT, env: Mapping[str, str] | None = None) -> str:
    """Run a command; its whole output is the message when it fails."""
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(done.args)}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def uv(*arguments: str | Path) -> str:
    return run(sys.executable, "-m", "uv", *arguments, env={**os.environ, "UV_PYTHON_DOWNLOADS": "never"})


@dataclass(frozen=True)
class Built:
    wheel: Path
    sdist: Path

    def wheel_files(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())

    def sdist_files(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {name.partition("/")[2] for name in archive.getnames()}

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
            return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="session")
def built() -> Built:
    dist = PROJECT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    # The wheel is built from the sdist, so both are proved complete.
    uv("build", "--quiet", "--out-dir", dist)
    return Built(wheel=next(dist.glob("*.whl")), sdist=next(dist.glob("*.tar.gz")))


@dataclass(frozen=True)
class Installed:
    python: Path
    home: Path

    def airflow(self, *arguments: str) -> Any:
        """Ask this environment's `airflow`, as JSON."""
        return self.ask("-m", "airflow", *arguments, "--output", "json")

    def ask(self, *arguments: str, **settings: str) -> Any:
        """Run this environment's Python, which answers with a JSON list of objects."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        env = {**own, "AIRFLOW_HOME": str(self.home), "PYTHONWARNINGS": "ignore", **settings}
        output = run(self.python, "-P", *arguments, cwd=self.home, env=env)
        # Log lines may stand before the answer.
        return json.loads(output[output.index("[{") :])


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    python = folder / "venv" / "bin" / "python"
    uv("venv", "--quiet", "--python", sys.executable, folder / "venv")
    uv("pip", "install", "--quiet", "--python", python, "--constraint", REQUIREMENTS, built.wheel)
    return Installed(python=python, home=folder)


def test_wheel_holds_every_file_of_the_package_and_nothing_else(built: Built):
    source = {
        str(file.relative_to(PROJECT))
        for file in (PROJECT / PACKAGE).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    examples = {
        f"{PACKAGE}/example_dags/{file.name}" for file in EXAMPLES.iterdir() if file.suffix in {".py", ".csv"}
    }
    packed = {name for name in built.wheel_files() if ".dist-info/" not in name}
    assert packed == source | examples
    assert len(examples) > 10


def test_wheel_names_its_documentation_and_shows_no_broken_link(built: Built):
    metadata = built.metadata()
    assert dict(each.split(", ") for each in metadata.get_all("Project-URL", [])) == URLS
    page = metadata.get_payload()
    assert f"({URLS['Source']}/blob/v{version(DISTRIBUTION)}/docs/tutorial.md)" in page
    # A relative link leads nowhere on a package page.
    assert re.findall(r"\]\((?!https://|#)[^)]*\)", page) == []
    assert "<this repository>" not in page


def test_wheel_is_typed_and_has_the_licence(built: Built):
    files = built.wheel_files()
    assert f"{PACKAGE}/py.typed" in files
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in files), sorted(files)


def test_wheel_declares_every_extra(built: Built):
    metadata = built.metadata()
    assert set(metadata.get_all("Provides-Extra", [])) == {"all", "azure", "c2pa", "gcs", "s3", "sftp"}
    needed = [each for each in metadata.get_all("Requires-Dist", []) if "extra == 'c2pa'" in each]
    assert len(needed) == 1
    assert needed[0].startswith("c2pa-python")


def test_signing_without_its_extra_says_what_to_install(installed: Installed):
    code = (
        "from airflow_provider_evoimage.images.signing import require_c2pa\n"
        "try:\n    require_c2pa()\nexcept Exception as error:\n    print(type(error).__name__, error)"
    )
    told = run(installed.python, "-P", "-c", code, cwd=installed.home)
    assert "InvalidRequestError sign_conn_id needs" in told
    assert "airflow-provider-evoimage[c2pa]" in told


def test_sdist_has_what_a_packager_needs(built: Built):
    files = built.sdist_files()
    assert {"LICENSE", "README.md", "pyproject.toml", f"{PACKAGE}/__init__.py"} <= files
    assert any(name.startswith("tests/") for name in files)


def test_declared_dependencies_are_met(installed: Installed):
    uv("pip", "check", "--python", installed.python)


def test_airflow_lists_the_provider(installed: Installed):
    providers = {each["package_name"]: each["version"] for each in installed.airflow("providers", "list")}
    assert providers.get(DISTRIBUTION) == version(DISTRIBUTION), (
        f"`airflow providers list` has {sorted(providers)}; look at the entry point apache_airflow_provider "
        "and at get_provider_info."
    )


def test_airflow_links_to_the_documentation(installed: Installed):
    code = (
        "import json\nfrom airflow.providers_manager import ProvidersManager\n"
        f"print(json.dumps([ProvidersManager().providers[{DISTRIBUTION!r}].data]))"
    )
    # What the page Admin > Providers reads.
    assert installed.ask("-c", code)[0]["documentation-url"] == URLS["Documentation"]


def test_airflow_loads_the_examples_only_with_load_examples(installed: Installed):
    (unasked,) = installed.ask("-c", BUNDLES, AIRFLOW__CORE__LOAD_EXAMPLES="False")
    assert unasked == {"dags-folder": {"dags": [], "errors": {}}}

    (asked,) = installed.ask("-c", BUNDLES, AIRFLOW__CORE__LOAD_EXAMPLES="True")
    examples = asked[f"{DISTRIBUTION}-example-dags"]
    assert examples["errors"] == {}
    ids = {
        found for file in EXAMPLES.glob("*.py") for found in re.findall(r'dag_id="(\w+)"', file.read_text())
    }
    assert set(examples["dags"]) == ids
    assert len(ids) >= len(list(EXAMPLES.glob("*.py")))


def test_airflow_knows_the_connection_type(installed: Installed):
    hooks = {each["connection_type"]: each for each in installed.airflow("providers", "hooks")}
    assert "evoimage" in hooks, (
        f"`airflow providers hooks` has {sorted(hooks)}; look at connection-types in get_provider_info, and "
        "whether the hook's module imports."
    )
    assert hooks["evoimage"]["package_name"] == DISTRIBUTION


def test_simulator_command_is_installed(installed: Installed):
    assert "evoimage-simulator" in run(installed.python.parent / "evoimage-simulator", "--help")


def test_command_is_installed_and_tells_a_price(installed: Installed):
    output = run(installed.python.parent / "evoimage", "estimate", "--model", "gpt-image-1", "--json")
    assert json.loads(output)["estimates"][0]["credits_low"] == 0.6659


def test_simulator_serves_from_the_installed_wheel(installed: Installed):
    command = [installed.python.parent / "evoimage-simulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=installed.home) as simulator:
        try:
            assert simulator.stdout is not None
            url = next(
                found[0]
                for line in simulator.stdout
                if (found := re.search(r"http://127\.0\.0\.1:\d+", line))
            )
            with urllib.request.urlopen(f"{url}/_simulator/counters", timeout=10) as answer:
                assert json.load(answer)["paid"] == 0
        finally:
            simulator.terminate()
            simulator.wait(timeout=20)


def test_wheel_holds_no_tool_of_the_repository(built: Built):
    assert [
        name for name in built.wheel_files() if name.startswith("tools/") or "local_airflow" in name
    ] == []
