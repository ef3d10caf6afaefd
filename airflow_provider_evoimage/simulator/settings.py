"""What can be changed about a simulator, at its start or while it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

ERROR_STYLES = ("new", "old")
LARGEST = 1e9
SLOWEST = 0.01


@dataclass
class Settings:
    """How the simulated service behaves.

    :param speed: generations run this many times faster than the real ones.
    :param link_lifetime: real seconds for which result links work.
    :param ignore_keys: treat the `Idempotency-Key` header as if it were not sent.
    :param batch: whether the undocumented batch endpoint exists; without it, it answers 404.
    :param error_style: `new` (string codes) or `old` (integer codes) error bodies.
    :param billing_object: tasks carry the `billing` object which newer gateways send.
    :param duration: seconds every new generation takes, before the division by the speed; None: by its model.
    """

    speed: float = 20.0
    link_lifetime: float = 86_400.0
    ignore_keys: bool = False
    batch: bool = True
    error_style: str = "new"
    billing_object: bool = False
    duration: float | None = None


def read_settings(body: Mapping[str, Any]) -> dict[str, Any]:
    """Check changes to the settings.

    :raises ValueError: naming the setting that is unknown or has a wrong value.
    """
    changes: dict[str, Any] = {}
    for name, value in body.items():
        if name not in READERS:
            raise ValueError(f"there is no setting {name!r}")
        try:
            changes[name] = READERS[name](value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return changes


def _flag(value: Any) -> bool:
    if value is True or value is False:
        return bool(value)
    raise ValueError("must be true or false")


def number(value: Any) -> float:
    """Read a number between 0 and a thousand million.

    :raises ValueError: when it is something else.
    """
    wrong_type = isinstance(value, bool) or not isinstance(value, int | float)
    if wrong_type or not 0 <= value <= LARGEST:
        raise ValueError(f"must be a number from 0 to {LARGEST:.0f}")
    return float(value)


def _speed(value: Any) -> float:
    speed = number(value)
    if speed < SLOWEST:
        raise ValueError(f"must be at least {SLOWEST}")
    return speed


def _optional(value: Any) -> float | None:
    return None if value is None else number(value)


def _style(value: Any) -> str:
    if value not in ERROR_STYLES:
        raise ValueError("must be new or old")
    return str(value)


def _keys(value: Any) -> list[str] | dict[str, str] | None:
    if value is None:
        return None
    texts = [*value, *value.values()] if isinstance(value, dict) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("must be a list of keys, or an object of keys and account names")
    return list(value) if isinstance(value, list) else dict(value)


def _key_list(value: Any) -> list[str]:
    keys = _keys(value)
    if isinstance(keys, list):
        return keys
    raise ValueError("must be a list of keys")


READERS: dict[str, Callable[[Any], Any]] = {
    "speed": _speed,
    "link_lifetime": number,
    "ignore_keys": _flag,
    "batch": _flag,
    "error_style": _style,
    "billing_object": _flag,
    "duration": _optional,
    "credits": number,
    "token_credits": _optional,
    "api_keys": _keys,
    "revoked_keys": _key_list,
    "freeze": _flag,
    "advance": number,
}
