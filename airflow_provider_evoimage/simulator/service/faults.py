"""Faults on demand: by words in the prompt, or put on a route through the control endpoint.

A word looks like `[[name]]`, `[[name:value]]` or `[[name:value option=value]]`. Words that are not listed in
`WORDS` are ordinary text.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_provider_evoimage.simulator.service.errors import Refusal

ROUTES = ("submit", "task", "list", "batch", "credits", "models", "catalog", "upload", "files", "download")
KINDS = ("status", "cut", "junk", "delay", "slow", "short", "html", "octet", "jpeg")
# These spoil a file and mean nothing on another route.
FILE_KINDS = ("slow", "short", "html", "octet", "jpeg")

FIRST_ERROR_STATUS, LAST_ERROR_STATUS = 400, 599
LONGEST_SECONDS = 1e9
SLOW_DOWNLOAD_SECONDS = 5.0

_WORD = re.compile(r"\[\[([a-z-]+)(?::([^\]\s]+))?((?:\s+[a-z_]+=[^\]\s]+)*)\s*\]\]")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    :param kind: one of `KINDS`.
    :param status: HTTP status, for kind `status`.
    :param code: error code instead of the usual one of the status.
    :param retry_after: value of a `Retry-After` header.
    :param seconds: length of a delay, or of a slow download.
    :param after: on the submit and the upload route: accept first.
    :param page: answer a status with a proxy's HTML page instead of JSON.
    :param times: how often; None means always.
    :param probability: how likely each time, between 0 and 1.
    """

    kind: str
    status: int = 500
    code: str | None = None
    retry_after: str | None = None
    seconds: float = 0.0
    after: bool = False
    page: bool = False
    times: int | None = None
    probability: float = 1.0


@dataclass(frozen=True)
class Script:
    """What the words of one prompt ask for.

    :param submit: faults of the submissions with this prompt, in the order of their words.
    :param failure: error code with which the generation ends.
    :param cancelled: the generation ends as cancelled.
    :param results: how many images it makes, when fewer than asked.
    :param duration: seconds it takes, before the division by the speed.
    :param never: it does not end.
    :param expired: its links are dead from the start.
    :param download: what is wrong with its files.
    """

    submit: tuple[Fault, ...] = ()
    failure: str | None = None
    cancelled: bool = False
    results: int | None = None
    duration: float | None = None
    never: bool = False
    expired: bool = False
    download: Fault | None = None

    def submit_fault(self, post: int) -> Fault | None:
        """Return the fault of the given submission with this prompt, counted from 0."""
        for fault in self.submit:
            if fault.times is None or post < fault.times:
                return fault
            post -= fault.times
        return None


Options = Mapping[str, str]
Reader = Callable[[Script, str, Options], Script]


def read_script(prompt: str) -> Script:
    """Read the words of a prompt.

    :raises Refusal: with status 400 when a known word has a value it cannot have.
    """
    script = Script()
    for match in _WORD.finditer(prompt):
        name, value = match[1], match[2] or ""
        if name not in WORDS:
            continue
        options = dict(option.split("=", 1) for option in match[3].split())
        try:
            script = WORDS[name](script, value, options)
        except ValueError as error:
            raise Refusal(400, f"Simulator word {match[0]}: {error}", param="prompt") from None
    return script


def _add(script: Script, fault: Fault, options: Options, times: int | None) -> Script:
    limit = _whole(options["times"]) if "times" in options else times
    return replace(script, submit=(*script.submit, replace(fault, times=limit)))


def _http(script: Script, value: str, options: Options) -> Script:
    fault = Fault(
        "status", _status(value), code=options.get("code"), retry_after=_header(options.get("retry_after"))
    )
    return _add(script, fault, options, None)


def _cut(script: Script, value: str, options: Options) -> Script:
    if value not in ("before", "after"):
        raise ValueError("say cut:before or cut:after")
    return _add(script, Fault("cut", after=value == "after"), options, 1)


def _status_after(script: Script, value: str, options: Options) -> Script:
    return _add(script, Fault("status", _status(value), after=True, page=True), options, 1)


def _junk_after(script: Script, _: str, options: Options) -> Script:
    return _add(script, Fault("junk", after=True), options, 1)


def _silence(script: Script, value: str, options: Options) -> Script:
    return _add(script, Fault("delay", seconds=_seconds(value), after=True), options, 1)


def _delay(script: Script, value: str, options: Options) -> Script:
    return _add(script, Fault("delay", seconds=_seconds(value)), options, 1)


def _download(script: Script, value: str, options: Options) -> Script:
    times = _whole(options["times"]) if "times" in options else None
    if value in FILE_KINDS:
        seconds = _seconds(options.get("seconds", str(SLOW_DOWNLOAD_SECONDS)))
        return replace(script, download=Fault(value, seconds=seconds, times=times))
    if value == "cut":
        return replace(script, download=Fault("cut", times=times))
    return replace(script, download=Fault("status", _status(value), times=times))


def _fail(script: Script, value: str, _: Options) -> Script:
    return replace(script, failure=value or "unknown_error")


WORDS: dict[str, Reader] = {
    "http": _http,
    "cut": _cut,
    "status-after": _status_after,
    "junk-after": _junk_after,
    "silence": _silence,
    "delay": _delay,
    "download": _download,
    "fail": _fail,
    "cancelled": lambda script, _value, _options: replace(script, cancelled=True),
    "results": lambda script, value, _options: replace(script, results=_whole(value)),
    "duration": lambda script, value, _options: replace(script, duration=_seconds(value)),
    "instant": lambda script, _value, _options: replace(script, duration=0.0),
    "never": lambda script, _value, _options: replace(script, never=True),
    "expired": lambda script, _value, _options: replace(script, expired=True),
}


def _whole(value: str) -> int:
    if not value.isdecimal():
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def _status(value: str) -> int:
    status = _whole(value)
    if not FIRST_ERROR_STATUS <= status <= LAST_ERROR_STATUS:
        raise ValueError(f"{status} is not an error status")
    return status


def _header(value: str | None) -> str | None:
    if value is not None and not (value.isascii() and value.isprintable()):
        raise ValueError("retry_after must be printable ASCII")
    return value


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"{value} is not a number of seconds")
    return seconds


@dataclass
class _Posted:
    """A fault on a route, and how often it still happens."""

    fault: Fault
    left: int | None


@dataclass
class FaultBoard:
    """The faults which the control endpoint put on routes.

    Chances come from a generator with a fixed seed, so that a run can be repeated.
    """

    posted: dict[str, list[_Posted]] = field(default_factory=dict)
    chance: random.Random = field(default_factory=lambda: random.Random(0))  # noqa: S311 - not for secrets
    drawn: Counter[str] = field(default_factory=Counter)

    def post(self, route: str, fault: Fault) -> None:
        """Put a fault on a route; faults of one route happen in the order in which they came."""
        self.posted.setdefault(route, []).append(_Posted(fault, fault.times))

    def clear(self) -> None:
        """Take every fault away."""
        self.posted.clear()

    def draw(self, route: str) -> Fault | None:
        """Return what goes wrong with this request, if anything."""
        for posted in self.posted.get(route, []):
            if posted.left == 0 or self.chance.random() >= posted.fault.probability:
                continue
            if posted.left is not None:
                posted.left -= 1
            self.drawn[route] += 1
            return posted.fault
        return None


def read_fault(body: Mapping[str, Any]) -> tuple[str, Fault]:
    """Read the body of a control request that puts a fault on a route.

    :raises ValueError: when the body says something else.
    """
    fields = dict(body)
    route = fields.pop("route", None)
    if route not in ROUTES:
        raise ValueError(f"route must be one of {', '.join(ROUTES)}")
    kind = fields.get("kind")
    if kind not in KINDS or (kind in FILE_KINDS and route != "download"):
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; the last five only for downloads")
    if "retry_after" in fields:
        fields["retry_after"] = _header(str(fields["retry_after"]))
    if kind == "slow":
        fields.setdefault("seconds", SLOW_DOWNLOAD_SECONDS)
    try:
        fault = Fault(**fields)
        _check(fault)
    except TypeError as error:
        raise ValueError(str(error)) from None
    return route, fault


def _check(fault: Fault) -> None:
    _status(str(fault.status))
    _seconds(str(fault.seconds))
    if fault.times is not None:
        _whole(str(fault.times))
    if not 0 <= fault.probability <= 1:
        raise ValueError("probability must be between 0 and 1")
