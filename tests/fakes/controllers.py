"""What every stand-in for a local controller has in common: it watches nothing and knows nothing of itself."""

from __future__ import annotations

from models.control.types import Health


class Unlearning:
    """The part of a controller that a scripted one does not play."""

    def watch(self, *_args: object, **_kwargs: object) -> None:
        return None

    def health(self) -> Health:
        return Health()
