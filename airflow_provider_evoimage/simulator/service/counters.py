"""What the simulator saw: the numbers with which a test proves that nothing was asked, or paid, twice."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any


@dataclass
class OpenRequests:
    """How many requests are being answered. Counted by the server's own thread alone, and kept when all begins anew.

    :param now: at this moment.
    :param most: that ever were at one time.
    """

    now: int = 0
    most: int = 0

    def opened(self) -> None:
        """Note that a request came in."""
        self.now += 1
        self.most = max(self.most, self.now)

    def closed(self) -> None:
        """Note that a request was answered, or given up."""
        self.now -= 1


@dataclass
class Counters:
    """Counts since the start or the last reset.

    :param submissions: POSTs to the generations endpoint, whatever became of them.
    :param paid: generations accepted.
    :param replays: submissions answered with an earlier generation.
    :param conflicts: submissions refused because their key belongs to another body.
    :param in_flight: submissions refused because the first one with their key is not decided yet.
    :param ids_read: task ids asked about, one by one or in a batch.
    :param reads: requests by route: task, list, batch, credits, models, catalog, files, download.
    :param downloads: requests for a result file, whatever became of them.
    :param downloads_served: downloads answered with the whole file, be it slowly.
    :param downloads_with_auth: requests for a result file that carried an Authorization header.
    :param uploads: files uploaded.
    :param rate_limited: requests refused because the account sent too many, or had too many generations running.
    :param credits_charged: credits finally charged.
    :param requests: those being answered.
    :param per_key: hash of the API key: submissions, paid, replays, reads.
    """

    submissions: int = 0
    paid: int = 0
    replays: int = 0
    conflicts: int = 0
    in_flight: int = 0
    ids_read: int = 0
    reads: Counter[str] = field(default_factory=Counter)
    downloads: int = 0
    downloads_served: int = 0
    downloads_with_auth: int = 0
    uploads: int = 0
    rate_limited: int = 0
    credits_charged: Decimal = Decimal(0)
    requests: OpenRequests = field(default_factory=OpenRequests)
    per_key: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def read(self, route: str, key: str, ids: int = 0) -> None:
        """Note a read by a known key."""
        self.ids_read += ids
        self.per_key[key][f"{route}_reads"] += 1

    def as_json(self) -> dict[str, Any]:
        """Return every count as plain JSON."""
        routes = ("task", "batch", "credits", "download", "list", "models", "catalog", "files")
        return {
            "submissions": self.submissions,
            "paid": self.paid,
            "replays": self.replays,
            "conflicts": self.conflicts,
            "in_flight": self.in_flight,
            "ids_read": self.ids_read,
            "reads": {route: self.reads[route] for route in routes},
            "downloads": self.downloads,
            "downloads_served": self.downloads_served,
            "downloads_with_auth": self.downloads_with_auth,
            "uploads": self.uploads,
            "rate_limited": self.rate_limited,
            "credits_charged": float(self.credits_charged),
            "open_requests": self.requests.now,
            "most_open_requests": self.requests.most,
            "per_key": {key: dict(counts) for key, counts in self.per_key.items()},
        }
