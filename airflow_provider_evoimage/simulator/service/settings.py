"""What can be changed about a simulator, at its start or while it runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ERROR_STYLES = ("new", "old")
N_BEHAVIOURS = ("as_asked", "single")
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
    :param n_behaviour: `as_asked`, or `single`: models whose pages say so make one image although `n` is larger.
    :param rps: requests per second which an account may send to `/v1`; 0 for any number.
    :param concurrency: generations which may run for an account at one time; 0 for any number.
    :param loopback_callbacks: accept callback URLs on this machine, and send to them.
    :param files_quota: uploaded files an account may keep.
    :param files_errors_with_200: the files API refuses with HTTP status 200.
    :param upload_receipts: whether lost upload replies can be read again; without, that answers 404.
    :param file_lifetime: real seconds for which uploaded files are kept.
    :param unavailable_models: the code with which submissions of a model are refused: 503 with `model_unavailable` or
        `no_available_channel`, 404 with `model_not_found`, 403 with any other.
    :param failing_models: the code with which generations of a model fail.
    :param slow_start: seconds after its start for which every request is refused with status 503.
    :param charge_factor: the account pays this many times the listed prices.
    :param reserve_factor: the service reserves this many times what an order can cost by the listed prices.
    :param charge_failed: whether generations that fail are charged as if they had brought their images.
    :param duration: seconds every new generation takes, before the division by the speed; None: by its model.
    """

    speed: float = 20.0
    link_lifetime: float = 86_400.0
    ignore_keys: bool = False
    batch: bool = True
    error_style: str = "new"
    billing_object: bool = False
    n_behaviour: str = "as_asked"
    rps: float = 0.0
    concurrency: int = 0
    loopback_callbacks: bool = False
    files_quota: int = 100
    files_errors_with_200: bool = False
    upload_receipts: bool = True
    file_lifetime: float = 72 * 3600.0
    unavailable_models: dict[str, str] = field(default_factory=dict)
    failing_models: dict[str, str] = field(default_factory=dict)
    slow_start: float = 0.0
    charge_factor: float = 1.0
    reserve_factor: float = 1.0
    charge_failed: bool = False
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


def _whole(value: Any) -> int:
    whole = number(value)
    if whole != int(whole):
        raise ValueError("must be a whole number")
    return int(whole)


def _one_of(accepted: Sequence[str]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in accepted:
            raise ValueError(f"must be {' or '.join(accepted)}")
        return str(value)

    return read


def _keys(value: Any) -> list[str] | dict[str, str] | None:
    if value is None:
        return None
    texts = [*value, *value.values()] if isinstance(value, dict) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError("must be a list of keys, or an object of keys and account names")
    return list(value) if isinstance(value, list) else dict(value)


def _codes(usual: str) -> Callable[[Any], dict[str, str]]:
    def read(value: Any) -> dict[str, str]:
        codes = dict.fromkeys(value, usual) if isinstance(value, list) else value
        if isinstance(codes, dict) and all(
            isinstance(text, str) and text for each in codes.items() for text in each
        ):
            return dict(codes)
        raise ValueError("must be a list of models, or an object of models and error codes")

    return read


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
    "error_style": _one_of(ERROR_STYLES),
    "billing_object": _flag,
    "charge_factor": number,
    "reserve_factor": number,
    "charge_failed": _flag,
    "duration": _optional,
    "n_behaviour": _one_of(N_BEHAVIOURS),
    "rps": number,
    "concurrency": _whole,
    "loopback_callbacks": _flag,
    "files_quota": _whole,
    "files_errors_with_200": _flag,
    "upload_receipts": _flag,
    "file_lifetime": number,
    "unavailable_models": _codes("model_unavailable"),
    "failing_models": _codes("service_error"),
    "slow_start": number,
    "credits": number,
    "token_credits": _optional,
    "token_daily_credits": _optional,
    "api_keys": _keys,
    "revoked_keys": _key_list,
    "freeze": _flag,
    "advance": number,
}
