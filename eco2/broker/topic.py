"""Topics of live messages and the patterns of listeners, as AMQP's topic exchanges match them."""

from collections.abc import Sequence


def matches(pattern: str, topic: str) -> bool:
    """True if `topic` fits `pattern`: `*` is exactly one word, `#` any number of words, also none."""
    return _match(pattern.split("."), topic.split("."))


def _match(pattern: Sequence[str], words: Sequence[str]) -> bool:
    if not pattern:
        return not words
    head, rest = pattern[0], pattern[1:]
    if head == "#":
        return any(_match(rest, words[skipped:]) for skipped in range(len(words) + 1))
    return bool(words) and head in ("*", words[0]) and _match(rest, words[1:])
