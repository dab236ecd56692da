"""Counts the tokens that a picture takes at OpenAI, by model, size and detail.

Source: OpenAI's guide "Images and vision", section on calculating costs. The large models count tiles of
512 px and know a flat price for low detail, the small ones count patches of 32 px. This is written apart from
the fake provider's, which also reads sizes by code of its own, so that neither can hide a fault of the other.
"""

import binascii
import math
from collections.abc import Mapping
from dataclasses import dataclass

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
_LONG, _SHORT, _TILE = 2048, 768, 512
_PATCH, _MAX_PATCHES = 32, 1536


@dataclass(frozen=True, slots=True)
class Tiles:
    """A price per tile of 512 px: `base` for low detail, else `base` and `tile` for each tile.

    Before that the picture is fitted into 2048 px and its short side to 768 px (never enlarged).
    """

    base: int
    tile: int

    def tokens(self, size: Size, low: bool) -> int:
        if low:
            return self.base
        scale = min(1.0, _LONG / max(size), _SHORT / min(size))
        across, down = (max(1, math.ceil(round(side * scale) / _TILE)) for side in size)
        return self.base + self.tile * across * down


@dataclass(frozen=True, slots=True)
class Patches:
    """`factor` for every 32 px patch. A picture of more than 1,536 is shrunk until whole patches cover it;
    low detail is a picture fitted into 512 px."""

    factor: float

    def tokens(self, size: Size, low: bool) -> int:
        width, height = size
        if low and max(size) > LOW:
            width, height = (max(1, side * LOW // max(size)) for side in size)
        count = count_patches(width, height)
        if count > _MAX_PATCHES:
            scale = math.sqrt(_MAX_PATCHES * _PATCH**2 / (width * height))
            across, down = width * scale / _PATCH, height * scale / _PATCH
            scale *= min(int(across) / across, int(down) / down)  # 0 for a picture thinner than a patch
            shrunk = count_patches(int(width * scale), int(height * scale))
            count = min(_MAX_PATCHES, shrunk or _MAX_PATCHES)
        return math.ceil(count * self.factor)


def count_patches(width: int, height: int) -> int:
    """Counts the patches that cover a picture."""
    return math.ceil(width / _PATCH) * math.ceil(height / _PATCH)


_MODELS: Mapping[str, Tiles | Patches] = {
    "gpt-4o": Tiles(85, 170),
    "gpt-4o-mini": Tiles(2833, 5667),
    "gpt-4.1": Tiles(85, 170),
    "gpt-4.1-mini": Patches(1.62),
    "gpt-4.1-nano": Patches(2.46),
    "gpt-5": Tiles(70, 140),
    "gpt-5-mini": Patches(1.62),
    "gpt-5-nano": Patches(2.46),
    "o1": Tiles(75, 150),
    "o3": Tiles(75, 150),
    "o4-mini": Patches(1.72),
}
_OTHER = Tiles(85, 170)


def image_tokens(model: str, size: Size | None, low: bool = True) -> int:
    """Counts the tokens of a picture of this size (None: not known) at `model`.

    The longest known beginning of the model's name decides (`gpt-5.1-2025-11-13` counts like `gpt-5`); a name
    without one counts like `gpt-4o`.
    """
    plain = plain_name(model)
    known = [name for name in _MODELS if plain.startswith(name)]
    price = _MODELS[max(known, key=len)] if known else _OTHER
    return price.tokens(size or UNKNOWN, low)


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
