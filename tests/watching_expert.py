"""The expert, which also keeps what it saw and answered, for tests in the same process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from vlarig.policies.api import Reply, Request
from vlarig.policies.scripted import ExpertPolicy


class WatchingExpert(ExpertPolicy):
    """The expert with a memory that the test reads: an episode's key to its requests and replies."""

    name = "watching-expert"
    seen: dict[str, list[tuple[Request, Reply]]] = defaultdict(list)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        replies = super().act(requests)
        for request, reply in zip(requests, replies, strict=True):
            if request.chunk == 0:
                self.seen[request.key].clear()
            self.seen[request.key].append((request, reply))
        return replies
