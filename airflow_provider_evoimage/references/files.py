"""Reads and checks reference images from any storage, and identifies each by its content."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_evoimage.evolink.files import MAX_UPLOAD_BYTES, UPLOAD_TYPES
from airflow_provider_evoimage.evolink.hosts import is_internal_host
from airflow_provider_evoimage.evolink.model_facts import ReferenceRules, reference_rules_of
from airflow_provider_evoimage.exceptions import InvalidRequestError, ReferenceUnreadableError
from airflow_provider_evoimage.images.reference_file import EXTENSIONS, has_alpha, look_at
from airflow_provider_evoimage.references.reading import chunks_of, opened, printable
from airflow_provider_evoimage.references.sources import (
    MAX_TEXT_CHARACTERS,
    images_of,
    is_blank,
    is_manifest,
    is_web_url,
    sources_of,
)

MASK = "mask_url"


@dataclass(frozen=True, kw_only=True)
class StoredReference:
    """An image that is uploaded because EvoLink cannot read it where it is stored.

    :param source: path or URL, as the user gave it, in characters that can be written.
    :param sha256: of its bytes, in hex.
    :param path: a local copy; None if the source cannot be read but an earlier try recorded its hash.
    :param missing: why there is no copy.
    """

    source: str
    sha256: str
    path: Path | None = None
    bytes: int | None = None
    content_type: str | None = None
    width: int | None = None
    height: int | None = None
    missing: Exception | None = None

    @property
    def address(self) -> str:
        """Stands for the image in a request until it is uploaded."""
        return f"sha256:{self.sha256}"

    @property
    def extension(self) -> str:
        """Extension of the real type, without the dot."""
        return EXTENSIONS.get(self.content_type or "", "img")

    def described(self) -> dict[str, Any]:
        """Tell as plain JSON which file it was."""
        facts = {
            "source": self.source,
            "sha256": self.sha256,
            "bytes": self.bytes,
            "content_type": self.content_type,
            "width": self.width,
            "height": self.height,
        }
        return {name: value for name, value in facts.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class KnownReferences:
    """Hashes that one try has read, so that a later try can identify the same request without reading the files.

    :param hashes: content hash of each source that is uploaded.
    :param sidecars: where the images of each sidecar are.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)
    sidecars: Mapping[str, Sequence[str]] = field(default_factory=dict)


class References:
    """The references and the mask of one request; a context manager that removes the local copies at its end.

    :param image_urls: http(s) URLs, and the content addresses of what is uploaded, in the user's order.
    :param extra_body: the user's, with the mask's content address in place of its path.
    :param stored: what is uploaded, each content once.
    :param sidecars: where the images of each sidecar among the references are.
    """

    def __init__(
        self,
        *,
        image_urls: tuple[str, ...],
        extra_body: Any,
        stored: Sequence[StoredReference],
        sidecars: Mapping[str, Sequence[str]],
        images: Sequence[StoredReference | str] = (),
        mask: StoredReference | str | None = None,
    ) -> None:
        self.image_urls = image_urls
        self.extra_body = extra_body
        self.stored = tuple({each.sha256: each for each in stored}.values())
        self._read = tuple(stored)
        self._sidecars = sidecars
        self._images = images
        self._mask = mask
        self._copies = ExitStack()

    def __enter__(self) -> References:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self, copies: ExitStack) -> None:
        """Take over the duty to remove the local copies."""
        self._copies = copies

    def close(self) -> None:
        """Remove the local copies."""
        self._copies.close()

    def require_fit(self, model: str) -> None:
        """Check them against what another model takes, while their local copies are there.

        :raises InvalidRequestError: when it does not take them.
        """
        with ExitStack() as copies:
            _Reader(copies, model, "", KnownReferences()).check(self._images, self._mask)

    @property
    def hashes(self) -> dict[str, str]:
        """The content hash of each source that is uploaded."""
        return {each.source: each.sha256 for each in self._read}

    @property
    def known(self) -> KnownReferences:
        """Hashes for a later try that cannot read the references."""
        return KnownReferences(hashes=self.hashes, sidecars=self._sidecars)

    def described(self) -> list[dict[str, Any]]:
        """Tell as plain JSON which files are uploaded."""
        return [each.described() for each in self._read]


def read_references(
    image_urls: object,
    extra_body: object,
    *,
    model: str,
    base_url: str,
    known: KnownReferences | None = None,
) -> References:
    """Read what the user gave as references and mask, and check it against what the model takes.

    http(s) URLs are only checked for their host, as perhaps only EvoLink can read them. Everything else is
    copied to local files and identified by its content.

    :param base_url: of EvoLink; one on a private host can read references on private hosts.
    :param known: of an earlier try: if a source is gone or damaged now, its recorded hash or images are used.
    :raises InvalidRequestError: if a reference does not exist, is no image of an accepted type by its bytes,
        or exceeds the model's limits. Nothing was sent.
    :raises ReferenceUnreadableError: when the storage cannot read it now; a retry may succeed.
    """
    with ExitStack() as copies:
        reader = _Reader(copies, model, base_url, known or KnownReferences())
        references = reader.read(image_urls, extra_body)
        # From here on ``references`` removes the copies.
        references.take(copies.pop_all())
    return references


class _Reader:
    def __init__(self, copies: ExitStack, model: str, base_url: str, known: KnownReferences) -> None:
        self._cleaning = copies
        self._model = model
        self._base_url = base_url
        self._known = known
        self._rules = reference_rules_of(model)
        self._copies: dict[str, StoredReference] = {}
        self._sidecars: dict[str, list[str]] = {}

    @functools.cached_property
    def _folder(self) -> Path:
        return Path(self._cleaning.enter_context(tempfile.TemporaryDirectory(prefix="evoimage-references-")))

    def read(self, image_urls: object, extra_body: object) -> References:
        sources = self._expanded(image_urls, "image_urls")
        body, masks = self._mask(extra_body)
        self._check_counts(len(sources), masks)
        references = [self._reference(source) for source in sources]
        stored = [each for each in references if isinstance(each, StoredReference)]
        for each in stored:
            self._check_reference(each)
        mask = None
        if masks:
            mask = self._reference(masks[0], field=f"extra_body.{MASK}")
            if isinstance(mask, StoredReference):
                self._check_mask(mask, references[0] if references else None)
                stored.append(mask)
            body[MASK] = _address(mask)
        return References(
            image_urls=tuple(map(_address, references)),
            extra_body=body,
            stored=stored,
            sidecars=self._sidecars,
            images=references,
            mask=mask,
        )

    def check(self, references: Sequence[StoredReference | str], mask: StoredReference | str | None) -> None:
        """Check what was read for another model."""
        self._check_counts(len(references), [] if mask is None else [_address(mask)])
        for each in references:
            if isinstance(each, StoredReference):
                self._check_bytes(each)
                self._check_reference(each)
        if isinstance(mask, StoredReference):
            self._check_bytes(mask)
            self._check_mask(mask, references[0] if references else None)

    def _check_bytes(self, reference: StoredReference) -> None:
        limit = (self._rules.max_bytes if self._rules else None) or MAX_UPLOAD_BYTES
        if reference.bytes is not None and reference.bytes > limit:
            raise self._beyond(
                f"{reference.source} is larger than {limit:,} bytes, the most that {self._model} takes"
            )

    def _expanded(self, value: object, field: str) -> list[str]:
        now = time.time()
        expanded: list[str] = []
        for source in sources_of(value, field=field, now=now):
            if is_web_url(source) or not source.lower().endswith(".json"):
                expanded.append(source)
                continue
            name = printable(source)
            self._sidecars[name] = self._beside(source, field, now)
            expanded += self._sidecars[name]
        return expanded

    def _beside(self, sidecar: str, field: str, now: float) -> list[str]:
        try:
            return images_of(self._manifest(sidecar, field), field=field, now=now)
        except (InvalidRequestError, ReferenceUnreadableError):
            earlier = self._known.sidecars.get(printable(sidecar))
            if not earlier:
                raise
            return list(earlier)

    def _manifest(self, source: str, field: str) -> Mapping[str, Any]:
        text = bytearray()
        with opened(source, field) as file:
            for chunk in chunks_of(file, source, field):
                text += chunk
                if len(text) > MAX_TEXT_CHARACTERS:
                    break
        try:
            manifest = json.loads(text)
        except (ValueError, RecursionError):
            manifest = None
        if not is_manifest(manifest):
            raise InvalidRequestError(f"{field}: {printable(source)} is no manifest of an EvoImage task.")
        checked: Mapping[str, Any] = manifest
        return checked

    def _mask(self, extra_body: object) -> tuple[Any, list[str]]:
        """Return the body without the mask, and the mask; the body unchanged if it has none."""
        body: object = extra_body
        if isinstance(body, str) and MASK in body:
            try:
                body = json.loads(body)
            except (ValueError, RecursionError):
                body = None  # The check of the request reports what is wrong.
        if not isinstance(body, Mapping) or MASK not in body:
            return extra_body, []
        field = f"extra_body.{MASK}"
        masks = [] if is_blank(body[MASK]) else self._expanded(body[MASK], field)
        if len(masks) > 1:
            raise InvalidRequestError(f"{field}: a request has one mask, not {len(masks)}.")
        return {name: value for name, value in body.items() if masks or name != MASK}, masks

    def _check_counts(self, references: int, masks: list[str]) -> None:
        rules = self._rules
        if rules is None:
            return
        if references > rules.most:
            raise self._beyond(
                f"image_urls: {references} references are more than {self._model} takes; allowed: {rules.most}"
            )
        if references < rules.least:
            raise self._beyond(f"image_urls: {self._model} needs at least {rules.least}")
        if masks and rules.mask == "none":
            raise self._beyond(f"extra_body.{MASK}: {self._model} takes no mask")
        if masks and not references:
            raise self._beyond(f"extra_body.{MASK}: EvoLink ignores a mask without image_urls")

    def _reference(self, source: str, field: str = "image_urls") -> StoredReference | str:
        if is_web_url(source):
            self._check_host(source, field)
            return source
        if source not in self._copies:
            self._copies[source] = self._copied(source, field)
        return self._copies[source]

    def _copied(self, source: str, field: str) -> StoredReference:
        # Names of local files may hold bytes that are no valid text.
        name = printable(source)
        try:
            path, sha256, size = self._copy(source, field)
            content_type, width, height = look_at(path, name, field)
        except (InvalidRequestError, ReferenceUnreadableError) as error:
            if name not in self._known.hashes:
                raise
            return StoredReference(source=name, sha256=self._known.hashes[name], missing=error)
        return StoredReference(
            source=name,
            sha256=sha256,
            path=path,
            bytes=size,
            content_type=content_type,
            width=width,
            height=height,
        )

    def _copy(self, source: str, field: str) -> tuple[Path, str, int]:
        limit = (self._rules.max_bytes if self._rules else None) or MAX_UPLOAD_BYTES
        digest, size = hashlib.sha256(), 0
        try:
            path = self._folder / f"{len(self._copies)}"
            with opened(source, field) as reference, path.open("wb") as copy:
                for chunk in chunks_of(reference, source, field):
                    size += len(chunk)
                    if size > limit:
                        raise InvalidRequestError(
                            f"{field}: {printable(source)} is larger than {limit:,} bytes, the most that "
                            f"{self._model} takes."
                        )
                    digest.update(chunk)
                    copy.write(chunk)
        except OSError as error:  # Errors of the storage are handled before this.
            raise ReferenceUnreadableError(
                f"{field}: {printable(source)} cannot be copied to this worker's temporary folder: {error}."
            ) from error
        return path, digest.hexdigest(), size

    def _check_host(self, url: str, field: str) -> None:
        host, own = _host(url), _host(self._base_url)
        if host and is_internal_host(host) and not is_internal_host(own):
            raise InvalidRequestError(
                f"{field}: EvoLink cannot read from {host}, which is a private host: give the file's path or storage "
                "URL, and it is uploaded."
            )

    def _check_reference(self, reference: StoredReference) -> None:
        if reference.content_type is None:
            return
        rules = self._rules
        allowed = UPLOAD_TYPES if rules is None else rules.types
        if reference.content_type not in allowed:
            raise self._beyond(
                f"image_urls: {reference.source} is {reference.content_type} by its bytes; {self._model} takes "
                f"{', '.join(allowed)}"
            )
        if rules is not None:
            self._check_pixels(reference, rules)

    def _check_pixels(self, reference: StoredReference, rules: ReferenceRules) -> None:
        width, height = reference.width or 0, reference.height or 0
        shown = f"image_urls: {reference.source} has {width}x{height} pixels; {self._model} takes"
        if (
            rules.edges is not None
            and not rules.edges[0] <= min(width, height) <= max(width, height) <= (rules.edges[1])
        ):
            raise self._beyond(f"{shown} edges from {rules.edges[0]:,} to {rules.edges[1]:,}")
        if rules.max_pixels is not None and width * height > rules.max_pixels:
            raise self._beyond(f"{shown} up to {rules.max_pixels:,}")

    def _check_mask(self, mask: StoredReference, first: StoredReference | str | None) -> None:
        # For a model that is not in the catalogue any mask is sent.
        if mask.path is None or self._rules is None:
            return
        field = f"extra_body.{MASK}: {mask.source}"
        if mask.content_type != "image/png":
            raise self._beyond(f"{field} is {mask.content_type} by its bytes; a mask is a PNG")
        if self._rules.mask == "alpha" and not has_alpha(mask.path):
            raise self._beyond(
                f"{field} has no alpha channel; its transparent pixels mark what is drawn again"
            )
        if not isinstance(first, StoredReference) or first.width is None:
            return
        if (mask.width, mask.height) != (first.width, first.height):
            raise self._beyond(
                f"{field} has {mask.width}x{mask.height} pixels, the reference {first.source} "
                f"{first.width}x{first.height}; they must be the same"
            )

    def _beyond(self, what: str) -> InvalidRequestError:
        return InvalidRequestError(f"{what} ({self._rules.source})." if self._rules else f"{what}.")


def _address(reference: StoredReference | str) -> str:
    return reference.address if isinstance(reference, StoredReference) else reference


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
