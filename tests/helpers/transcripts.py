"""What a model was shown at each turn."""

from __future__ import annotations


def whole(conversation: list[str], opening: int) -> list[list[str]]:
    """What is shown at each turn of a conversation that ends with a reply, and of which nothing is left out."""
    return [conversation[:end] for end in range(opening, len(conversation), 2)]
