"""A complete engine state and the room that it leaves: what a prediction outside the controller starts from."""

from __future__ import annotations

from dataclasses import dataclass

from models.control.learn import room_of
from models.control.predict import plant_of
from models.control.profiles import StackProfile


@dataclass(frozen=True, slots=True)
class LoadNow:
    """A complete engine state."""

    running: float
    waiting_tokens: float
    kv_tokens: float
    prompt_tokens_per_s: float

    def one_more(self) -> LoadNow:
        """With the next request already running: what it will meet."""
        return LoadNow(self.running + 1, self.waiting_tokens, self.kv_tokens, self.prompt_tokens_per_s)

    def towards(self, newer: LoadNow, share: float) -> LoadNow:
        """Moved to a newer load by a share: an exponential mean."""
        return LoadNow(
            self.running + share * (newer.running - self.running),
            self.waiting_tokens + share * (newer.waiting_tokens - self.waiting_tokens),
            self.kv_tokens + share * (newer.kv_tokens - self.kv_tokens),
            self.prompt_tokens_per_s + share * (newer.prompt_tokens_per_s - self.prompt_tokens_per_s),
        )


def chunk_room(stack: StackProfile, running: float) -> float:
    """Prompt tokens that fit one iteration beside the running sequences."""
    return room_of(plant_of(stack), float(stack.chunk_tokens), running)
