"""The ids which the simulator makes up: random, or repeatable when it was started with a seed."""

import hashlib
import secrets
import string
from collections import Counter

TASK_ID_PREFIX = "task-unified-"
FILE_ID_PREFIX = "file_"
REQUEST_ID_PREFIX = "req_"
LETTERS = string.ascii_lowercase + string.digits
# A task id names the second of its creation. With a seed a count stands in its place, from here on.
FIRST_SECOND = 1_757_156_493


class Names:
    """Makes up ids; those of one kind depend on how many of this kind there were before, and on nothing else.

    :param seed: the same seed gives the same ids; None gives random ones.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed
        self._made: Counter[str] = Counter()

    def task_id(self, created: float) -> str:
        """Make up a task id in the service's form."""
        second = int(created) if self._seed is None else FIRST_SECOND + self._made["task"]
        digest = self._digest("task")
        return f"{TASK_ID_PREFIX}{second}-{''.join(LETTERS[byte % len(LETTERS)] for byte in digest[:8])}"

    def file_id(self) -> str:
        """Make up the id of an uploaded file."""
        return FILE_ID_PREFIX + self._digest("file").hex()[:16]

    def request_id(self) -> str:
        """Make up the id of an HTTP request."""
        return REQUEST_ID_PREFIX + self._digest("request").hex()[:24]

    def _digest(self, kind: str) -> bytes:
        self._made[kind] += 1
        if self._seed is None:
            return secrets.token_bytes(32)
        return hashlib.sha256(f"{self._seed} {kind} {self._made[kind]}".encode()).digest()
