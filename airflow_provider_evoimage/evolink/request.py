"""What a user asks for: one request, checked against what EvoLink documents before anything is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Annotated, Any, Unpack
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from airflow_provider_evoimage.evolink.hosts import is_internal_host
from airflow_provider_evoimage.evolink.json_values import holds_nul
from airflow_provider_evoimage.evolink.model_facts import ModelFacts, facts_of, like_known
from airflow_provider_evoimage.exceptions import InvalidRequestError
from airflow_provider_evoimage.shapes import RequestArguments

# evolink.ai/gpt-image-1, "callback_url".
MAX_CALLBACK_URL_CHARACTERS = 2048
# gpt-image-2 documents 60,000 bytes besides its 32,000 characters.
MAX_PROMPT_BYTES = 60_000

# Stands for an image that is still to be uploaded; no request goes out with one.
CONTENT_ADDRESS = re.compile(r"sha256:[0-9a-f]{64}")

_SHOWN_CHARACTERS = 120


def _unset_if_blank(value: object) -> object:
    """Read what a Jinja template leaves where a parameter was empty as "not given"."""
    if isinstance(value, str):
        value = value.strip()
        return None if value in {"", "None", "null"} else value
    return value


def _whole_number(value: object) -> object:
    """Turn "4" and 4.0 into 4; refuse True, "4.5" and words."""
    value = _unset_if_blank(value)
    if isinstance(value, bool):
        raise ValueError("must be a whole number")  # noqa: TRY004 (pydantic reads ValueError)
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d{1,9}(\.0+)?", value):
        return int(float(value))
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _url_list(value: object) -> object:
    """Accept one URL, a list, or the text of a JSON list (what a template renders)."""
    value = _unset_if_blank(value)
    if value is None:
        return ()
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError("looks like a list, but is not valid JSON") from error
    if isinstance(value, str):
        return (value,)
    if isinstance(value, Set):
        raise ValueError("is a set, and the order of references counts: give a list")  # noqa: TRY004 (as above)
    if isinstance(value, Iterable) and not isinstance(value, (bytes, Mapping)):
        return tuple(value)
    return value


def _json_object(value: object) -> object:
    """Accept an object or the text of a JSON object."""
    value = _unset_if_blank(value)
    if value is None:
        return {}
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError("must be an object, or the text of a JSON object") from error
    return value


def _plain_size(value: str) -> str:
    return value.replace("×", "x").replace("X", "x").replace(" ", "")


OptionalText = Annotated[str | None, BeforeValidator(_unset_if_blank)]


class ImageRequest(BaseModel):
    """One request for images, as it goes over the wire.

    Build it with :meth:`build`, which turns every mistake into one ``InvalidRequestError``.
    Certain mistakes are errors. What EvoLink's pages dispute, or what concerns a model that is not in the
    catalogue, is sent as it is; ``warnings`` says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)

    model: Annotated[str, BeforeValidator(_unset_if_blank)] = Field(description="model id", max_length=200)
    prompt: str = Field(description="what to draw, or how to edit the references")
    size: Annotated[Annotated[str, AfterValidator(_plain_size)] | None, BeforeValidator(_unset_if_blank)] = (
        Field(default=None, description="ratio W:H, pixels WxH, or auto, by model")
    )
    quality: OptionalText = Field(default=None, description="rendering effort or pixel tier, by model")
    n: Annotated[int | None, BeforeValidator(_whole_number)] = Field(
        default=None, ge=1, description="number of images; the upper limit is the model's"
    )
    image_urls: Annotated[tuple[str, ...], BeforeValidator(_url_list)] = Field(
        default=(),
        description="references: http(s) URLs that EvoLink can read without logging in; until they are "
        "uploaded, those of the user's own storage by content, sha256:<hex>",
    )
    callback_url: OptionalText = Field(
        default=None,
        max_length=MAX_CALLBACK_URL_CHARACTERS,
        description="https URL that EvoLink calls when the generation has ended",
    )
    extra_body: Annotated[dict[str, Any], BeforeValidator(_json_object)] = Field(
        default_factory=dict, description="fields of other models, sent as they are"
    )
    defaults: tuple[str, ...] = Field(
        default=(), description="names of the fields that hold EvoLink's documented default"
    )

    @classmethod
    def build(cls, **fields: Unpack[RequestArguments]) -> ImageRequest:
        """Check the fields and fill in the documented defaults of the model.

        :raises InvalidRequestError: naming each wrong field, its value, what is allowed, and the page.
        """
        try:
            request = cls(**fields)
        except ValidationError as error:
            problems = "; ".join(_problem(detail) for detail in error.errors(include_url=False))
            raise InvalidRequestError(f"The image request cannot be sent: {problems}.") from None
        return request._with_defaults()

    @classmethod
    def of_body(cls, body: Mapping[str, Any]) -> ImageRequest | None:
        """Return the request that has exactly this body; None where there is none, for instance in another release."""
        named = {name: value for name, value in body.items() if name in _NAMED_FIELDS}
        others = {name: value for name, value in body.items() if name not in _NAMED_FIELDS}
        try:
            request = cls(**named, extra_body=others)
        except ValidationError:
            return None
        return request if request.body() == body else None

    @field_validator("prompt", mode="before")
    @classmethod
    def _prompt_is_text(cls, value: object) -> object:
        if not isinstance(value, str):
            raise ValueError("must be text")  # noqa: TRY004 (pydantic reads ValueError)
        if not value.strip():
            raise ValueError("must not be empty")
        if value.strip() in {"None", "null"}:
            # This would pay for a picture of the word.
            raise ValueError(
                "is what a template renders None to: the task it comes from was skipped or returned nothing"
            )
        return value

    @field_validator("image_urls")
    @classmethod
    def _references_are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if CONTENT_ADDRESS.fullmatch(url):
                continue
            parts = _split_url(url)
            if parts.scheme not in {"http", "https"} or not parts.hostname:
                raise ValueError(f"{_shown(url)} is not an http(s) URL; EvoLink fetches references itself")
        return value

    @field_validator("callback_url")
    @classmethod
    def _callback_is_public_https(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _PRINTABLE.fullmatch(value):
            raise ValueError("must hold no spaces and no control characters")
        parts = _split_url(value)
        if parts.username is not None or parts.password is not None:
            raise ValueError("must hold no user and no password: anybody who sees the task could read them")
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("must be an https URL (evolink.ai/gpt-image-1: HTTPS only)")
        if is_internal_host(parts.hostname):
            raise ValueError(
                f"host {parts.hostname} is private or loopback, which EvoLink does not call "
                "(evolink.ai/gpt-image-1: no internal IPs)"
            )
        return value

    @field_validator("extra_body")
    @classmethod
    def _extra_body_is_new_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(value) & _NAMED_FIELDS)
        if taken:
            raise ValueError(f"must not repeat {', '.join(taken)}: set the argument of that name")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"must be plain JSON: {error}") from error
        return value

    @model_validator(mode="after")
    def _can_be_encoded(self) -> ImageRequest:
        for name, value in self.body().items():
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{name}: holds half a character (a lone surrogate)") from error
            if holds_nul(value):
                # PostgreSQL stores no NUL in JSON, so Airflow could not keep the result of a paid request.
                raise ValueError(f"{name}: holds a NUL character, which Airflow's database cannot store")
        return self

    @model_validator(mode="after")
    def _fits_the_model(self) -> ImageRequest:
        facts = facts_of(self.model)
        if facts is not None:
            problems = list(_certain_mistakes(self, facts))
            if problems:
                raise ValueError(f"{'; '.join(problems)} ({facts.source})")
        return self

    def _with_defaults(self) -> ImageRequest:
        facts = facts_of(self.model)
        if facts is None:
            return self
        documented: dict[str, str | int | None] = {
            "size": facts.default_size,
            "quality": facts.default_quality,
            "n": 1 if facts.has_n else None,
        }
        missing = {
            name: value
            for name, value in documented.items()
            if value is not None and getattr(self, name) is None
        }
        return self.model_copy(update={**missing, "defaults": tuple(missing)})

    def body(self) -> dict[str, Any]:
        """Return the JSON body of the POST: only fields that have a value."""
        facts = facts_of(self.model)
        fields = {
            "model": self.model,
            "prompt": self.prompt,
            "size": self.size,
            "quality": self.quality,
            "n": self.n if facts is None or facts.has_n else None,
            "image_urls": list(self.image_urls) or None,
            "callback_url": self.callback_url,
        }
        return {name: value for name, value in fields.items() if value is not None} | self.extra_body

    def with_uploads(self, urls: Mapping[str, str]) -> ImageRequest:
        """Put URLs in place of the references and the mask that were known by content.

        :param urls: by content address, ``sha256:<hex>``.
        """
        extra_body = dict(self.extra_body)
        if isinstance(mask := extra_body.get("mask_url"), str):
            extra_body["mask_url"] = urls.get(mask, mask)
        image_urls = tuple(urls.get(url, url) for url in self.image_urls)
        return self.model_copy(update={"image_urls": image_urls, "extra_body": extra_body})

    @property
    def image_count(self) -> int:
        """How many images this request asks for."""
        return self.n or 1

    @property
    def summary(self) -> str:
        """The request in one line for a log: what, how large, how good, from how many references."""
        parts = [f"{self.image_count} × {self.model}", self.size or "size by the model"]
        if self.quality:
            parts.append(f"quality {self.quality}")
        if self.image_urls:
            parts.append(f"{len(self.image_urls)} reference{'s' if len(self.image_urls) > 1 else ''}")
        if self.defaults:
            parts.append(f"documented default for {', '.join(self.defaults)}")
        return ", ".join(parts)

    @property
    def short_prompt(self) -> str:
        """The beginning of the prompt in one line, for a log."""
        text = " ".join(self.prompt.split())
        return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"

    @property
    def warnings(self) -> list[str]:
        """What may go another way than the user expects, in sentences; empty when nothing may."""
        facts = facts_of(self.model)
        if facts is None:
            return [
                f"Model {self.model} is not in this provider's catalogue{like_known(self.model)}; "
                "the request goes out unchecked."
            ]
        return list(_doubts(self, facts))


_NAMED_FIELDS = frozenset(ImageRequest.model_fields) - {"extra_body", "defaults"}


def _certain_mistakes(request: ImageRequest, facts: ModelFacts) -> Iterable[str]:
    model = request.model
    if request.size is not None and not facts.allows_size(request.size):
        yield f"size: {_shown(request.size)} is not a size of {model}; allowed: {facts.described_sizes}"
    qualities = (*facts.qualities, *facts.disputed_qualities)
    if request.quality is not None and request.quality not in qualities:
        allowed = ", ".join(qualities) or "none, the model has no quality"
        yield f"quality: {_shown(request.quality)} is not a quality of {model}; allowed: {allowed}"
    if request.n is not None and request.n > facts.max_n:
        yield f"n: {request.n} is outside the range of {model}; allowed: 1 to {facts.max_n}"
    if len(request.image_urls) > facts.max_references:
        yield (
            f"image_urls: {len(request.image_urls)} references are more than {model} takes; "
            f"allowed: {facts.max_references}"
        )
    for name, allowed_values in facts.extra_values.items():
        value = request.extra_body.get(name)
        if value is not None and str(value).lower() not in {allowed.lower() for allowed in allowed_values}:
            allowed = ", ".join(allowed_values)
            yield f"extra_body.{name}: {_shown(value)} is not a {name} of {model}; allowed: {allowed}"
    if {"background", "output_format"} <= facts.extra_values.keys():
        background, output = (
            str(request.extra_body.get(name)).lower() for name in ("background", "output_format")
        )
        if (background, output) == ("transparent", "jpeg"):
            yield "extra_body.background: transparent needs output_format png or webp"


def _doubts(request: ImageRequest, facts: ModelFacts) -> Iterable[str]:
    if len(request.prompt) > facts.max_prompt_characters:
        yield (
            f"The prompt has {len(request.prompt):,} characters; {facts.source} names a limit of "
            f"{facts.max_prompt_characters:,}. EvoLink may cut or refuse it."
        )
    elif len(request.prompt.encode()) > MAX_PROMPT_BYTES:
        yield f"The prompt has {len(request.prompt.encode()):,} bytes; {facts.source} names a limit of 60,000."
    disputed = []
    if request.quality in facts.disputed_qualities:
        disputed.append(f"quality={request.quality}")
    if facts.disputed_n_above is not None and request.image_count > facts.disputed_n_above:
        disputed.append(f"n={request.n}")
    references = len(request.image_urls)
    if facts.disputed_references_above is not None and references > facts.disputed_references_above:
        disputed.append(f"{references} image_urls")
    if disputed:
        yield f"EvoLink's pages disagree about {' and '.join(disputed)} for {request.model}: {facts.note}."


def _split_url(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _problem(detail: Any) -> str:
    """Put one of pydantic's findings into a sentence part that names field and value."""
    where = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{where}: is required"
    if not where:
        return message
    if where.startswith("image_urls"):
        # It names the URL at fault; the others may be signed.
        return f"{where}: {message}"
    value = detail["input"]
    if isinstance(value, str):
        # User, password and query of a URL may be secrets.
        value = re.sub(r"(?i)(https?://)[^/?#]*@", r"\1", value.partition("?")[0])
    return f"{where}: {message}, got {_shown(value)}"


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # A number of more than 4,300 digits, or a list within lists within lists.
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"


# Fields that cost nothing: a change of theirs is no other request.
_PRINTABLE = re.compile(r"[!-~\u00a1-\uffff]+")
_NOT_BILLABLE = frozenset({"callback_url"})


def billable_body(request: ImageRequest, url_as: Callable[[str], str]) -> dict[str, Any]:
    """Return a request's body without what costs nothing, each http(s) URL in it in another form.

    :param url_as: gives that form. URLs are the references, and what begins like one in ``extra_body``, however
        deep; a prompt goes unchanged.
    """
    body = {name: value for name, value in request.body().items() if name not in _NOT_BILLABLE}
    given = {name: body[name] for name in body if name == "image_urls" or name in request.extra_body}
    # A copy, and no recursion: it may be nested as deep as JSON can be.
    changed: dict[str, Any] = json.loads(json.dumps(given))
    containers: list[Any] = [changed]
    while containers:
        container = containers.pop()
        for place, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if isinstance(value, (dict, list)):
                containers.append(value)
            elif isinstance(value, str) and value.lower().startswith(("http://", "https://")):
                container[place] = url_as(value)
    return body | changed
