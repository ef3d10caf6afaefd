"""Real content credentials, signed and read by the C2PA's own library: valid before, valid after."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_evoimage.images.provenance import KeptImage, mark_image, mark_of, read_statement
from airflow_provider_evoimage.images.result_file import describe_image
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.storage import saver
from tests.integration.task_driver import TaskRun, batch, generate, save

pytest.importorskip("c2pa", reason="c2pa-python is not installed", exc_type=ImportError)

from tests.integration.credentials import TYPES, problems, signed_picture

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")


@pytest.fixture(scope="module")
def sign() -> Callable[[str], bytes]:
    """Sign a picture of this kind."""
    return signed_picture


@pytest.mark.parametrize("kind", TYPES)
def test_signed_file_is_recognised_and_kept(tmp_path: Path, sign: Callable[[str], bytes], kind: str):
    content = sign(kind)
    assert problems(kind, content) == []
    path = tmp_path / "image"
    path.write_bytes(content)
    outcome = mark_image(describe_image(path), tmp_path / "marked", mark_of(model=None, has_references=False))
    assert isinstance(outcome, KeptImage)
    assert outcome.statement.content_credentials is True
    assert read_statement(io.BytesIO(content)).content_credentials is True


def test_changed_signed_file_is_invalid(sign: Callable[[str], bytes]):
    content = sign("PNG")
    assert problems("PNG", content[:-12] + b"\0\0\0\0teSt\0\0\0\0" + content[-12:]) != []


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("way", ["generate", "save", "batch"])
def test_signed_file_stays_valid_through_a_save(
    tmp_path: Path,
    sign: Callable[[str], bytes],
    monkeypatch: pytest.MonkeyPatch,
    submitted: Callable[..., str],
    evolink: SimulatorServer,
    kind: str,
    way: str,
):
    content = sign(kind)
    download = saver.download_image

    def instead(client: Any, url: str, path: Path, limits: Any) -> Any:
        download(client, url, path, limits)
        path.write_bytes(content)
        return describe_image(path)

    monkeypatch.setattr(saver, "download_image", instead)
    if way == "generate":
        TaskRun(generate(save_to=str(tmp_path))).run()
    elif way == "batch":
        TaskRun(batch(["a mug"], tmp_path)).run()
    else:
        task = submitted("a mug")
        evolink.state.clock.advance(600)
        evolink.state.settle()
        TaskRun(save(task, tmp_path), task_id="save").run()
    (saved,) = [each for each in tmp_path.rglob("*.*") if each.suffix in {".png", ".jpg", ".webp"}]
    assert saved.read_bytes() == content
    assert problems(kind, saved.read_bytes()) == []
