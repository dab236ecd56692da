"""Classes of waste for the labels of an image classifier, by a table; below a threshold none is named.

The classifier knows a thousand things, most of them no waste and some of no certain material (a jug may be
plastic or china); those are not in `data/labels.json`. Scores of labels that lead to the same class add up.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from eco2.pipeline import Label
from eco2.stages.taxonomy import Item, Middle, taxonomy

THRESHOLD = 0.5
"""A middle is named when it is more likely than everything else together."""


def classify(labels: Sequence[Label]) -> tuple[Middle, Item | None]:
    """Returns the class and its likeliest item; `Middle.UNKNOWN` if no class reaches the threshold."""
    middle, score = best_middle(labels)
    if score < THRESHOLD:
        return Middle.UNKNOWN, None
    scores = item_scores(labels)
    return middle, max((item for item in scores if item.middle is middle), key=scores.__getitem__)


def best_middle(labels: Sequence[Label]) -> tuple[Middle, float]:
    """Returns the likeliest class and the sum of its labels' scores, however small; 0 if none is known."""
    middles: dict[Middle, float] = defaultdict(float)
    for item, score in item_scores(labels).items():
        middles[item.middle] += score
    return max(middles.items(), key=lambda entry: entry[1], default=(Middle.UNKNOWN, 0.0))


def item_scores(labels: Sequence[Label]) -> Mapping[Item, float]:
    """Returns the sum of the labels' scores for each item that they lead to."""
    items: dict[Item, float] = defaultdict(float)
    for label in labels:
        if item := known_labels().get(label.name):
            items[item] += label.score
    return items


@cache
def known_labels() -> Mapping[str, Item]:
    """Reads the item of each known label. Raises `ValueError` for an item that does not exist."""
    table = files("eco2.stages").joinpath("data", "labels.json").read_text(encoding="utf-8")
    rows: Mapping[str, Sequence[str]] = json.loads(table)
    items = taxonomy().items
    if strangers := set(rows) - set(items):
        raise ValueError(f"labels.json names items that items.json lacks: {', '.join(sorted(strangers))}")
    return {label: items[name] for name, labels in rows.items() for label in labels}
