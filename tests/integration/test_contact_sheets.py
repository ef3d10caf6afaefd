"""Contact sheets: every rendition on one, named in the manifests, few in memory, the same after a kill."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from PIL import Image, ImageChops

import airflow_provider_evoimage
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.images.channels import Rendition
from airflow_provider_evoimage.images.provenance import read_statement
from airflow_provider_evoimage.renditions import contact_sheet as sheets
from airflow_provider_evoimage.storage.stores import LocalFiles
from tests.integration.task_driver import Killed
from tests.integration.test_renditions import path_of, rendering

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

SCHEMA = json.loads((Path(airflow_provider_evoimage.__file__).parent / "manifest.schema.json").read_text())
COLOURS = {"red": (254, 0, 0), "green": (0, 128, 1), "blue": (0, 0, 254), "black": (0, 0, 0)}
TWO = [Rendition("wide", width=300, height=150), Rendition("high", width=150, height=300)]


def saved(folder: Path, colour: str, number: int = 0, *, images: int = 1) -> dict[str, Any]:
    """Return the manifest of saved images of one colour."""
    entries = []
    for index in range(images):
        path = folder / f"{colour}-{number}-{index}.png"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (200, 200), colour).save(path)
        entries.append(
            {
                "index": index,
                "path": f"file://{path}",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "width": 200,
                "height": 200,
            }
        )
    return {"evolink_task_id": f"task-{colour}-{number}", "model": "gpt-image-2", "images": entries}


def cut(images: Any, folder: Path, **arguments: Any) -> Any:
    return rendering(
        images, folder, **({"renditions": TWO, "upscale": "allow", "contact_sheet": True} | arguments)
    )


def colours_of(path: Path, cells: int) -> list[str]:
    """Tell the colour in the middle of each cell."""
    found = []
    with Image.open(path) as sheet:
        for number in range(cells):
            left = 16 + number % 6 * 256 + 120
            top = 16 + number // 6 * 308 + 120
            pixel = sheet.getpixel((left, top))
            found.append(
                next(
                    name
                    for name, colour in COLOURS.items()
                    if all(abs(one - other) < 20 for one, other in zip(pixel, colour, strict=True))
                )
            )
    return found


def test_sheet_shows_every_rendition_with_a_label_and_is_named_in_the_manifest(tmp_path: Path):
    manifest = cut(saved(tmp_path / "drawn", "red"), tmp_path / "cut")
    (entry,) = manifest["contact_sheets"]
    path = path_of(entry)
    assert path.name == "cut-0-0-contact-sheet.jpg"
    content = path.read_bytes()
    assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))
    with Image.open(path) as sheet:
        assert sheet.size == (entry["width"], entry["height"]) == (16 + 2 * 256, 16 + 308)
        for cell in range(2):
            left = 16 + cell * 256
            label = sheet.crop((left, 16 + 240, left + 240, 16 + 240 + 52)).convert("L")
            assert ImageChops.invert(label).getbbox() is not None, "there is no text"
            assert label.getextrema()[0] < 100
    assert colours_of(path, 2) == ["red", "red"]
    with path.open("rb") as file:
        assert read_statement(file).digital_source_type == "compositeWithTrainedAlgorithmicMedia"
    (sidecar,) = (tmp_path / "cut").rglob("*.json")
    assert json.loads(sidecar.read_text())["contact_sheets"] == manifest["contact_sheets"]
    for field, schema in (
        ("contact_sheets", SCHEMA["properties"]["contact_sheets"]),
        ("images", SCHEMA["properties"]["images"]),
    ):
        jsonschema.Draft202012Validator(schema).validate(manifest[field])


def test_there_is_no_sheet_unless_it_is_wanted(tmp_path: Path):
    manifest = cut(saved(tmp_path / "drawn", "red"), tmp_path / "cut", contact_sheet=False)
    assert "contact_sheets" not in manifest
    assert len(list((tmp_path / "cut").rglob("*.jpg"))) == 2


def test_batch_shares_sheets_and_each_manifest_names_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sheets, "MOST_ON_A_SHEET", 6)
    drawn = [
        saved(tmp_path / "drawn", "red"),
        saved(tmp_path / "drawn", "green"),
        # Two of the six places stay free, as a manifest is not divided.
        saved(tmp_path / "drawn", "blue", images=2),
        # More than one sheet takes.
        saved(tmp_path / "drawn", "black", images=4),
    ]
    manifests = cut(drawn, tmp_path / "cut")
    named = [[path_of(entry).name for entry in each["contact_sheets"]] for each in manifests]
    first, second, third, fourth = (
        "cut-0-0-contact-sheet.jpg",
        "cut-2-0-contact-sheet.jpg",
        "cut-3-0-contact-sheet.jpg",
        "cut-3-0-contact-sheet-2.jpg",
    )
    assert named == [[first], [first], [second], [third, fourth]]
    found = {path.name: path for path in (tmp_path / "cut").rglob("*contact-sheet*")}
    assert set(found) == {first, second, third, fourth}
    assert colours_of(found[first], 4) == ["red", "red", "green", "green"]
    assert colours_of(found[second], 4) == ["blue"] * 4
    assert colours_of(found[third], 6) == ["black"] * 6
    assert colours_of(found[fourth], 2) == ["black"] * 2
    assert len(list((tmp_path / "cut").rglob("*.json"))) == 4


def test_only_one_sheet_of_previews_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sheets, "MOST_ON_A_SHEET", 4)
    most, published = 0, 0
    add, publish = sheets.ContactSheets.add, sheets.ContactSheets._published

    def counted(self: sheets.ContactSheets, stem: str, cells: Any) -> Any:
        nonlocal most
        entries = add(self, stem, cells)
        most = max(most, len(self._cells))
        return entries

    def counting(self: sheets.ContactSheets) -> Any:
        nonlocal published
        published += 1
        assert len(self._cells) <= 4
        return publish(self)

    monkeypatch.setattr(sheets.ContactSheets, "add", counted)
    monkeypatch.setattr(sheets.ContactSheets, "_published", counting)
    cut([saved(tmp_path / "drawn", "red", number) for number in range(9)], tmp_path / "cut")
    assert (most, published) == (2, 5)


def test_retry_after_a_kill_leaves_the_same_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sheets, "MOST_ON_A_SHEET", 4)
    drawn = [saved(tmp_path / "drawn", colour) for colour in ("red", "green", "blue")]
    whole = [each["contact_sheets"][0]["sha256"] for each in cut(drawn, tmp_path / "whole")]
    publish = LocalFiles.publish
    for number in range(1, 9):
        folder, count = tmp_path / str(number), 0

        def until(self: Any, local: Path, path: str, content_type: str, last: int = number) -> None:
            nonlocal count
            count += content_type == "image/jpeg"
            if count == last:
                raise Killed
            publish(self, local, path, content_type)

        with monkeypatch.context() as patch:
            patch.setattr(LocalFiles, "publish", until)
            with pytest.raises(Killed):
                cut(drawn, folder, parallel=1)
        manifests = cut(drawn, folder, tries=1)
        assert [each["contact_sheets"][0]["sha256"] for each in manifests] == whole
        assert not list(folder.rglob(".*"))


def test_name_of_a_sheet_is_kept_free(tmp_path: Path):
    with pytest.raises(InvalidRequestError, match="begins with 'contact-sheet'"):
        cut(
            saved(tmp_path / "drawn", "red"),
            tmp_path / "cut",
            renditions=[Rendition("contact-sheet", width=10, height=10)],
        )
    assert not (tmp_path / "cut").exists()


def test_transparent_logo_is_shown_on_grey(tmp_path: Path):
    path = tmp_path / "logo.png"
    Image.new("RGBA", (200, 200), (255, 0, 0, 0)).save(path)
    preview = sheets.preview_of(path, 240)
    assert (preview.mode, preview.getpixel((9, 9))) == ("RGB", (217, 217, 217))
