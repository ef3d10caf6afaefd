"""Hides secrets of URLs in Airflow's tab Rendered Templates and in task logs, without touching what is sent.

The values of template fields stay as they are; Airflow's own secrets masker replaces the hidden parts where they are
shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2
    from airflow.sdk import BaseOperator, Context

    _Operator = BaseOperator
else:
    _Operator = object

# The masker takes no less.
_SHORTEST = 5
# Each costs the masker time at every line of a log. Airflow cuts a long field, so that more are never shown by default.
MOST_SECRETS = 200
_URL = re.compile(r"https?://[^\s\"'<>\\]+", re.IGNORECASE)
# A path of a few letters may be a folder's name, which logs shall show.
_SHORTEST_PATH = 8


class HidesSecretsOfUrls(_Operator):
    """An operator whose rendered fields show no query or password of a URL, and no path of a callback."""

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
    ) -> None:
        # Airflow calls this for plain and for mapped tasks, 3.1 to 3.3, and stores the fields directly afterwards.
        super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        if parent is self:
            self.hide_secrets()

    def hide_secrets(self) -> None:
        """Have Airflow mask what the template fields hold now."""
        secrets: dict[str, None] = {}
        for name in type(self).template_fields:
            found = dict.fromkeys(secrets_of(getattr(self, name, None), is_callback=name == "callback_url"))
            if len(secrets) + len(found) > MOST_SECRETS:
                # Only with a longer [core] max_templated_field_length than Airflow's own would all of it be shown.
                self.template_fields = [each for each in self.template_fields if each != name]
            else:
                secrets |= found
        if secrets:
            from airflow.sdk.log import mask_secret  # noqa: PLC0415 (a DAG file needs none)

            mask_secret([*secrets, *_rests(list(secrets))])


def secrets_of(value: Any, *, is_callback: bool = False) -> Iterator[str]:
    """Yield the parts of the URLs in a value that people shall not read.

    :param value: of a template field: texts, lists and mappings in each other.
    :param is_callback: also its path, which is a secret of its own at many services.
    """
    for text in _texts(value):
        for url in _URL.findall(text):
            address, _, rest = url.partition("?")
            host = address.partition("://")[2].partition("/")[0]
            user, at, _ = host.rpartition("@")
            if at and len(user) >= _SHORTEST:
                yield user
            path = address.partition("://")[2].removeprefix(host)
            if is_callback and len(path) >= _SHORTEST_PATH:
                yield f"{path}?{rest}" if rest else path
            elif len(rest) >= _SHORTEST:
                yield rest


def _texts(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif depth > 20:
        return
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _texts(name, depth + 1)
            yield from _texts(each, depth + 1)
    elif isinstance(value, (Sequence, Set)) and isinstance(value, (list, tuple, set, frozenset)):
        # Only what is in memory: other sequences of Airflow ask for each item.
        for each in value:
            yield from _texts(each, depth + 1)


def _rests(secrets: Sequence[str]) -> Iterator[str]:
    """Yield what a shorter secret that begins a longer one would leave of it, as the masker may take it first."""
    for one in secrets:
        for other in secrets:
            if other != one and other.startswith(one) and len(other) - len(one) >= _SHORTEST:
                yield other[len(one) :]
