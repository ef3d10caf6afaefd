"""Every row of the channel table, as programs read it that share nothing with what wrote the file."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

from airflow_provider_evoimage.images.channels import CHANNELS, Channel, Rendition
from airflow_provider_evoimage.images.provenance import MarkedImage, mark_image, mark_of
from airflow_provider_evoimage.images.result_file import describe_image
from tests.integration.test_renditions import path_of, rendering
from tests.readers import needs_exiftool, origin_by_pillow, read_by_exiftool
from tests.unit.images.test_provenance import VARIANTS, written

pytestmark = pytest.mark.usefixtures("fake_time", "airflow_connection")

OWN = [Rendition(f"own-{kind}", width=640, height=480, format=kind, max_kb=900) for kind in ("jpeg", "webp")]
ROWS = [*CHANNELS.values(), *OWN, Rendition("own-png", width=64, height=48, format="png", max_kb=30)]
AI = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def profile_with_red_and_green_swapped() -> bytes:
    """Return a profile in which the first channel is what sRGB calls green: one sees whether it was obeyed."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {}
    for number in range(int.from_bytes(content[128:132])):
        start = 132 + 12 * number
        places[bytes(content[start : start + 4])] = start
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    content[red : red + 4], content[green : green + 4] = content[green : green + 4], content[red : red + 4]
    return bytes(content)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A green noise whose bytes say red, by their profile."""
    path = tmp_path_factory.mktemp("drawn") / "image.png"
    strong, weak = (
        Image.effect_noise((1200, 1200), 60).point(lambda value: 127 + value // 2),
        Image.new("L", (1200, 1200), 8),
    )
    image = Image.merge("RGB", [strong, weak, weak])
    image.save(path, icc_profile=profile_with_red_and_green_swapped())
    content = path.read_bytes()
    return {
        "evolink_task_id": "task-unified-1",
        "model": "gpt-image-2",
        "images": [
            {
                "index": 0,
                "path": f"file://{path}",
                "sha256": hashlib.sha256(content).hexdigest(),
                "width": 1200,
                "height": 1200,
            }
        ],
    }


def made_for(channel: Channel, drawn: dict[str, Any], folder: Path) -> dict[str, Any]:
    is_far = max(channel.ratio, 1 / channel.ratio) > 2.5
    manifest = rendering(drawn, folder, renditions=[channel], fit="pad" if is_far else "cover")
    (made,) = manifest["images"][0]["renditions"]
    return made


@pytest.mark.parametrize("channel", ROWS, ids=lambda channel: channel.name)
def test_every_row_keeps_its_promises(channel: Channel, drawn: dict[str, Any], tmp_path: Path):
    made = made_for(channel, drawn, tmp_path)
    path = path_of(made)
    content = path.read_bytes()
    assert channel.max_bytes is None or len(content) <= channel.max_bytes
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        assert image.size == (channel.width, channel.height)
        assert image.format.lower() in channel.formats
        assert image.mode == "RGB"
        # No profile means sRGB; the colours must have been converted then.
        assert "icc_profile" not in image.info
        red, green, blue = image.getpixel((channel.width // 2, channel.height // 2))
        assert green > 100 > max(red, blue)
    origin = origin_by_pillow(path)
    assert origin["digital_source_type"] == AI
    assert origin["creator_tool"] == "airflow-provider-evoimage (EvoLink gpt-image-2)"


@needs_exiftool
@pytest.mark.parametrize("channel", ROWS, ids=lambda channel: channel.name)
def test_exiftool_reads_pixels_format_and_mark_of_every_row(
    channel: Channel, drawn: dict[str, Any], tmp_path: Path
):
    found = read_by_exiftool(path_of(made_for(channel, drawn, tmp_path)))
    assert (found["ImageWidth"], found["ImageHeight"]) == (channel.width, channel.height)
    assert found["FileType"].lower().removeprefix("extended ") in channel.formats
    assert found["DigitalSourceType"] == AI
    assert found["CreatorTool"] == "airflow-provider-evoimage (EvoLink gpt-image-2)"
    assert "Error" not in found
    assert "ProfileDescription" not in found


@needs_exiftool
@pytest.mark.parametrize(("kind", "mode", "options"), VARIANTS)
def test_exiftool_reads_the_mark_of_every_kind_and_mode_and_finds_nothing_wrong(
    tmp_path: Path, kind: str, mode: str, options: dict[str, Any]
):
    path = written(tmp_path / f"image.{kind.lower()}", kind, mode, **options)
    before = read_by_exiftool(path)
    text = "A mug & a <spoon>"
    outcome = mark_image(
        describe_image(path),
        tmp_path / f"marked.{kind.lower()}",
        mark_of(model=None, has_references=True, alt_text=text),
    )
    assert isinstance(outcome, MarkedImage)
    found = read_by_exiftool(outcome.file.path)
    assert found["DigitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")
    assert found["AltTextAccessibility"] == text
    assert "Error" not in found
    assert found["Validate"] == before["Validate"]
