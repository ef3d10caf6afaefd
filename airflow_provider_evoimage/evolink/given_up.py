"""A model that took a request and brought nothing: which one, why, and that it cost nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow_provider_evoimage.evolink.json_values import words

_MOST_MODELS = 20
_MOST_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class GivenUp:
    """One model that a request has left behind.

    :param why: EvoLink's error code.
    :param billed: always False, as a request moves on only when this is certain.
    """

    model: str
    why: str
    billed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it as the manifest's ``fell_back`` lists it."""
        return asdict(self)

    @classmethod
    def read(cls, data: object) -> tuple[GivenUp, ...]:
        """Read a stored list; people can edit it, so whatever is odd is left out."""
        if not isinstance(data, Iterable) or isinstance(data, (str, bytes, Mapping)):
            return ()
        found = []
        for each in data:
            model = words(each.get("model"), _MOST_CHARACTERS) if isinstance(each, Mapping) else None
            if model is not None:
                found.append(cls(model=model, why=words(each.get("why"), _MOST_CHARACTERS) or "unknown"))
        return tuple(found[:_MOST_MODELS])
