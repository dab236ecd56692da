"""Counts the tokens that a picture takes at OpenAI, by model and size. Calls ask for low detail only.

Source: OpenAI's guide "Images and vision", section on calculating costs. The large models have a flat price
for low detail, the small ones count patches of 32 px of a picture that is fitted into 512 px. This is written
apart from the fake provider's, which also reads sizes by code of its own: neither can hide a fault of the
other.
"""

import binascii
import math
from collections.abc import Mapping

from eco2 import picturefile
from eco2.errors import InvalidInput
from eco2.tokens.names import plain_name

Size = tuple[int, int]
"""Width and height in pixels."""
_HEADS = (4096, 204_800)
"""Characters of base64 that show the size of nearly all pictures, and of all with usual metadata. Both are
multiples of 4."""
LOW = 512
"""Side of the square that low detail is fitted into."""
UNKNOWN: Size = (LOW, LOW)
"""Taken for a picture whose size is not known: the largest that low detail makes of any."""
_PATCH = 32

_FLAT: Mapping[str, int] = {"gpt-4o": 85, "gpt-4o-mini": 2833, "gpt-4.1": 85, "gpt-5": 70, "o1": 75, "o3": 75}
"""Tokens of any picture."""
_PER_PATCH: Mapping[str, float] = {
    "gpt-4.1-mini": 1.62,
    "gpt-4.1-nano": 2.46,
    "gpt-5-mini": 1.62,
    "gpt-5-nano": 2.46,
    "o4-mini": 1.72,
}
"""Tokens of each patch."""


def image_tokens(model: str, size: Size | None) -> int:
    """Counts the tokens of a picture of this size (None: not known) at `model`.

    The longest known beginning of the model's name decides (`gpt-5.1-2025-11-13` counts like `gpt-5`); a name
    without one counts like `gpt-4o`.
    """
    plain = plain_name(model)
    known = [name for name in (*_FLAT, *_PER_PATCH) if plain.startswith(name)]
    name = max(known, key=len, default="gpt-4o")
    if name in _FLAT:
        return _FLAT[name]
    width, height = size or UNKNOWN
    if (longer := max(width, height)) > LOW:
        width, height = max(1, width * LOW // longer), max(1, height * LOW // longer)
    return math.ceil(math.ceil(width / _PATCH) * math.ceil(height / _PATCH) * _PER_PATCH[name])


def size_of(url: str) -> Size | None:
    """Reads the size of the picture in a `data:` URL; None for any other URL, and where that fails.

    No pixel is decoded, nothing is fetched.
    """
    kind, comma, _ = url[:100].partition(";base64,")
    if not comma or not kind.startswith("data:image/"):
        return None
    begin = len(kind) + len(comma)
    for end in (*(begin + head for head in _HEADS), len(url)):
        try:
            file = picturefile.read(binascii.a2b_base64(url[begin:end]))
        except InvalidInput:  # perhaps only since this part ends before the size
            continue
        except ValueError:  # no base64, or no ASCII
            return None
        return file.width, file.height
    return None
