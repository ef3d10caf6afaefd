"""Contact sheets: overview pictures of all renditions, each with its channel, pixels and bytes below it.

A sheet holds 48 renditions at most, so that memory stays small and the picture can be opened. Only one sheet is in
memory at a time.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_evoimage.images.provenance import MarkedImage, mark_image, mark_of
from airflow_provider_evoimage.images.result_file import describe_image
from airflow_provider_evoimage.shapes import ContactSheet
from airflow_provider_evoimage.storage.destination import Destination
from airflow_provider_evoimage.storage.existing import new_file_in
from airflow_provider_evoimage.storage.progress import temporary_folder_failed

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

#: What the names of sheets end with, before the extension.
SHEET = "contact-sheet"
#: Longest edge of a preview, in pixels.
PREVIEW_EDGE = 240
_COLUMNS, _ROWS = 6, 8
MOST_ON_A_SHEET = _COLUMNS * _ROWS
_MARGIN, _LABEL_HEIGHT, _FONT_SIZE = 16, 52, 13
_CELL_WIDTH, _CELL_HEIGHT = PREVIEW_EDGE + _MARGIN, PREVIEW_EDGE + _LABEL_HEIGHT + _MARGIN
_PAPER, _INK, _BEHIND = "#ffffff", "#202020", "#d9d9d9"
_QUALITY = 85
_LABEL_CHARACTERS = 32


def sheet_name(stem: str, number: int) -> str:
    """Name a sheet; nearly all manifests begin one sheet at most, which has no number."""
    return f"{stem}-{SHEET}{'' if number == 1 else f'-{number}'}.jpg"


def preview_of(path: Path, edge: int) -> PillowImage:
    """Return a small picture of an image file, with grey behind transparent parts."""
    from PIL import Image

    with Image.open(path) as opened:
        # A JPEG is decoded at a fraction of its size.
        opened.draft("RGB", (edge, edge))
        opened.thumbnail((edge, edge), Image.Resampling.BILINEAR)
        if opened.mode == "RGB":
            return opened.copy()
        small = opened.convert("RGBA")
    board = Image.new("RGB", small.size, _BEHIND)
    board.paste(small, mask=small)
    return board


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One rendition on a sheet.

    :param preview: of :func:`preview_of`.
    :param title: of its image.
    :param rendition: its entry in the manifest.
    """

    preview: PillowImage
    title: str
    rendition: Mapping[str, Any]

    @property
    def lines(self) -> tuple[str, ...]:
        """Return the lines below the preview."""
        of = self.rendition
        return (
            self.title,
            str(of["channel"]),
            f"{of['width']}×{of['height']}, {of['bytes'] / 1000:,.0f} kB",
        )


@dataclass(kw_only=True)
class ContactSheets:
    """The sheets of one task, one after the other.

    A sheet holds whole manifests, except those with more renditions than one sheet takes.

    :param folder: a local folder for temporary files.
    """

    destination: Destination
    folder: Path
    _name: str = ""
    _cells: list[Cell] = field(default_factory=list)
    # Of the manifests with cells on the open sheet: the lists that get its entry.
    _listed_in: list[list[ContactSheet]] = field(default_factory=list)

    def add(self, stem: str, cells: Sequence[Cell]) -> list[ContactSheet]:
        """Add the renditions of one manifest.

        :param stem: of the manifest; names the sheets that begin with it.
        :returns: a list that gets an entry for each sheet of this manifest as soon as the sheet is published.
        """
        entries: list[ContactSheet] = []
        if len(self._cells) + len(cells) > MOST_ON_A_SHEET:
            self.close()
        begun = 0
        for start in range(0, len(cells), MOST_ON_A_SHEET):
            if not self._cells:
                begun += 1
                self._name = sheet_name(stem, begun)
            self._cells.extend(cells[start : start + MOST_ON_A_SHEET])
            self._listed_in.append(entries)
            if len(self._cells) >= MOST_ON_A_SHEET:
                self.close()
        return entries

    def is_open_for(self, entries: list[ContactSheet]) -> bool:
        """Tell whether a list of :meth:`add` will get another entry."""
        return any(each is entries for each in self._listed_in)

    def close(self) -> None:
        """Publish the open sheet, if there is one.

        :raises DestinationError: when the storage does not take it.
        """
        if not self._cells:
            return
        entry = self._published()
        for entries in self._listed_in:
            entries.append(entry.copy())
        self._cells, self._listed_in = [], []

    def _published(self) -> ContactSheet:
        """Draw and publish the open sheet, marked as made by AI as its pictures are."""
        local = new_file_in(self.folder)
        marked = local.with_suffix(".marked")
        try:
            try:
                local.write_bytes(self._drawn())
            except OSError as error:
                raise temporary_folder_failed(error) from error
            outcome = mark_image(describe_image(local), marked, mark_of(model=None, has_references=True))
            file = outcome.file if isinstance(outcome, MarkedImage) else describe_image(local)
            return {
                "path": self.destination.publish(file.path, self._name, file.content_type),
                "sha256": file.sha256,
                "width": file.width,
                "height": file.height,
                "bytes": file.bytes,
                "content_type": file.content_type,
            }
        finally:
            for each in (local, marked):
                each.unlink(missing_ok=True)

    def _drawn(self) -> bytes:
        from PIL import Image, ImageDraw, ImageFont

        columns = min(_COLUMNS, len(self._cells))
        rows = -(-len(self._cells) // _COLUMNS)
        board = Image.new(
            "RGB", (_MARGIN + columns * _CELL_WIDTH, _MARGIN + rows * _CELL_HEIGHT), color=_PAPER
        )
        pen, font = ImageDraw.Draw(board), ImageFont.load_default(_FONT_SIZE)
        for number, cell in enumerate(self._cells):
            left = _MARGIN + number % _COLUMNS * _CELL_WIDTH
            top = _MARGIN + number // _COLUMNS * _CELL_HEIGHT
            board.paste(
                cell.preview,
                (
                    left + (PREVIEW_EDGE - cell.preview.width) // 2,
                    top + (PREVIEW_EDGE - cell.preview.height) // 2,
                ),
            )
            for line, text in enumerate(cell.lines):
                place = left, top + PREVIEW_EDGE + 2 + line * (_FONT_SIZE + 3)
                pen.text(place, text[:_LABEL_CHARACTERS], fill=_INK, font=font)
        buffer = io.BytesIO()
        board.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
        return buffer.getvalue()
