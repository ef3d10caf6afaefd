"""Readers of images that share no code with this project: Pillow with a plain XML parser, and exiftool."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

EXIFTOOL = shutil.which("exiftool")
needs_exiftool = pytest.mark.skipif(
    EXIFTOOL is None,
    reason="exiftool is not installed (Debian, Ubuntu: apt-get install libimage-exiftool-perl)",
)
_NAMES = {
    "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType": "digital_source_type",
    "{http://ns.adobe.com/xap/1.0/}CreatorTool": "creator_tool",
}
_ALT_TEXT = "{http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/}AltTextAccessibility"
_ITEM = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"


def origin_by_pillow(path: Path) -> dict[str, Any]:
    """Find the packet with Pillow, and read it as plain XML."""
    with Image.open(path) as image:
        image.load()
        packet = image.info.get("xmp")
    assert packet, f"Pillow finds no XMP packet in {path.name}"
    root = ET.fromstring(packet)
    found: dict[str, Any] = {name: element.text for tag, name in _NAMES.items() for element in root.iter(tag)}
    for element in root.iter(_ALT_TEXT):
        found["alt_text"] = next((item.text for item in element.iter(_ITEM)), None)
    return found


def read_by_exiftool(path: Path) -> dict[str, Any]:
    """Return everything that exiftool says of a file, its own problems with it among that."""
    assert EXIFTOOL is not None
    done = subprocess.run(
        [EXIFTOOL, "-json", "-validate", "-warning", "-error", "-all", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    (found,) = json.loads(done.stdout)
    return found
