"""Reads a model's name: which model a snapshot, a router's prefix or a fine-tuned copy stands for. Pure."""

import re

_SNAPSHOT = re.compile(r"[-@](?:\d{4}-\d{2}-\d{2}|\d{8})$")


def plain_name(model: str) -> str:
    """The name without prefix, variant and date, in lower case: `gpt-5-mini` for all of these.

    `gpt-5-mini-2025-08-07`, `gpt-5-mini-20250807`, `gpt-5-mini@2025-08-07`, `openai/gpt-5-mini`,
    `models/gpt-5-mini`, `openai/gpt-5-mini:free`, `ft:gpt-5-mini-2025-08-07:org::id`, `GPT-5-Mini`.
    """
    name = model.strip().lower().removeprefix("ft:").partition(":")[0]
    return _SNAPSHOT.sub("", name.rpartition("/")[2])


def listed_name(model: str) -> str | None:
    """`plain_name` where the list price holds; None for fine-tuned copies and a router's variants."""
    return None if ":" in model else plain_name(model)
