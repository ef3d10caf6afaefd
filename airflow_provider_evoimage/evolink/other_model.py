"""The same request for another model: size and quality in that model's words, or a refusal. Pure."""

from __future__ import annotations

import re

from airflow_provider_evoimage.evolink.model_facts import ModelFacts, facts_of
from airflow_provider_evoimage.exceptions import InvalidRequestError

# From the least effort to the most.
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_WIDTH_AND_HEIGHT = re.compile(r"(\d{1,5})([:x])(\d{1,5})")


def size_for(model: str, size: str | None) -> str | None:
    """Return the size of a model that has the same ratio; None where the request has no size.

    A size that the model takes stays as it is, so does any size of a model that is not in the catalogue. ``auto``
    becomes the model's default.

    :raises InvalidRequestError: when the model has no size of that ratio.
    """
    facts = facts_of(model)
    if size is None or facts is None:
        return size
    plain = size.strip().lower().replace("×", "x")
    if facts.allows_size(plain):
        return plain
    if plain == "auto":
        return facts.default_size
    wanted = _WIDTH_AND_HEIGHT.fullmatch(plain)
    same = [] if wanted is None else [each for each in facts.sizes if _has_ratio_of(each, wanted)]
    if not same:
        raise InvalidRequestError(
            f"size: {size!r} has no counterpart in {model}; its sizes: {facts.described_sizes} ({facts.source})."
        )
    # A ratio asks for no more pixels than the model draws by itself.
    return next(
        (each for each in same if ("x" in each) == (wanted is not None and wanted[2] == "x")), same[0]
    )


def quality_for(model: str, quality: str | None) -> str | None:
    """Return the quality of a model that is nearest to another's and not above it; None where it has none.

    :raises InvalidRequestError: when the model has no such quality.
    """
    facts = facts_of(model)
    if quality is None or facts is None or quality in (*facts.qualities, *facts.disputed_qualities):
        return quality
    if not facts.qualities:
        return None
    if quality in _EFFORTS:
        below = [each for each in _EFFORTS[: _EFFORTS.index(quality)] if each in facts.qualities]
        if below:
            return below[-1]
    raise InvalidRequestError(
        f"quality: {quality!r} has no counterpart in {model}; its qualities: {_listed(facts)} ({facts.source})."
    )


def _has_ratio_of(size: str, wanted: re.Match[str]) -> bool:
    found = _WIDTH_AND_HEIGHT.fullmatch(size)
    return found is not None and int(found[1]) * int(wanted[3]) == int(found[3]) * int(wanted[1])


def _listed(facts: ModelFacts) -> str:
    return ", ".join((*facts.qualities, *facts.disputed_qualities))
