"""Reads the account's list of finished generations, back to a moment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from airflow_provider_evoimage.evolink.answers import Generation
from airflow_provider_evoimage.evolink.protocol import MAX_IDS_PER_BATCH
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

#: Generations that one run reads at the most; each takes some 200 bytes of memory until it is saved.
MOST_LISTED = 50_000


@dataclass(frozen=True, slots=True)
class ListedGeneration:
    """What the list says of a finished generation.

    :param created: Unix seconds, by EvoLink's clock; None where EvoLink does not say.
    """

    evolink_task_id: str
    model: str | None
    created: float | None

    @classmethod
    def of(cls, generation: Generation) -> ListedGeneration:
        """Keep the three fields; the answer itself is dropped."""
        created = generation.created
        return cls(generation.evolink_task_id, generation.model, created.timestamp() if created else None)

    def age(self, now: float) -> float:
        """Return the seconds since it began; 0 where that is unknown."""
        return 0.0 if self.created is None else now - self.created


def completed_generations(
    hook: EvoImageHook, *, lifetime: float, model: str | None = None
) -> Iterator[ListedGeneration]:
    """List completed image generations, newest first, each once.

    While pages are read new generations move the others down, so one may come twice in the answers, but none is
    skipped. The list ends with a page on which all are older than the lifetime.

    :param lifetime: seconds; older generations are left out.
    :param model: only of this model.
    """
    seen: set[str] = set()
    page = 0
    while len(seen) < MOST_LISTED:
        page += 1
        answer = hook.list_generations(
            status="completed", model=model, page=page, page_size=MAX_IDS_PER_BATCH
        )
        oldest = hook.now() - lifetime
        listed = [ListedGeneration.of(each) for each in answer.generations]
        fresh = [each for each in listed if each.evolink_task_id not in seen]
        seen.update(each.evolink_task_id for each in fresh)
        young = [each for each in listed if each.created is None or each.created > oldest]
        kept = set(young)
        yield from (each for each in fresh if each in kept)
        # A server that ignores the number of the page sends the same for ever.
        if not young or not fresh:
            return
