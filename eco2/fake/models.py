"""Describes families of models: the tokens of an image, and the parameters that they refuse.

Figures: OpenAI's guide "Images and vision", section on calculating costs (tiles of 512 px for the larger
models, patches of 32 px for the small ones), and the API reference of chat completions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

ImageTokens = Callable[[int, int, bool], int]
"""(width, height in pixels, low detail?) → tokens."""


def tiles(base: int, tile: int) -> ImageTokens:
    """Returns the rule of large models.

    Low detail: `base`. Else the image is fitted into 2048 px, its short side to 768 px, and every 512 px tile
    of that adds `tile`.
    """

    def tokens(width: int, height: int, low: bool) -> int:
        if low:
            return base
        fit = min(1.0, 2048 / max(width, height))
        short = min(1.0, 768 / (min(width, height) * fit))
        scaled = (round(width * fit * short), round(height * fit * short))
        return base + tile * math.prod(max(1, math.ceil(side / 512)) for side in scaled)

    return tokens


def patches(factor: float, most: int = 1536) -> ImageTokens:
    """Returns the rule of small models: `factor` for each 32 px patch, of at most `most` patches.

    Larger images are shrunk. Low detail is the same image fitted into 512 px.
    """

    def tokens(width: int, height: int, low: bool) -> int:
        if low:
            fit = min(1.0, 512 / max(width, height))
            width, height = max(1, int(width * fit)), max(1, int(height * fit))
        count = math.ceil(width / 32) * math.ceil(height / 32)
        if count > most:
            count = shrunk_patches(width, height, most)
        return math.ceil(count * factor)

    return tokens


def shrunk_patches(width: int, height: int, most: int) -> int:
    """Returns the patches of the largest scaled image that fits into `most` whole patches."""
    shrink = math.sqrt(most * 32 * 32 / (width * height))
    across, down = width * shrink / 32, height * shrink / 32
    shrink *= min(math.floor(across) / across, math.floor(down) / down)
    return min(most, math.ceil(int(width * shrink) / 32) * math.ceil(int(height * shrink) / 32))


@dataclass(frozen=True, slots=True)
class Family:
    """One family. `efforts`: values of `reasoning_effort`, the default first; empty if it does not reason.

    While a model reasons it takes no `temperature` or `top_p` but 1."""

    image_tokens: ImageTokens
    efforts: tuple[str, ...] = ()


_FAMILIES = {
    "gpt-4o-mini": Family(tiles(2833, 5667)),
    "gpt-4o": Family(tiles(85, 170)),
    "gpt-4.1-mini": Family(patches(1.62)),
    "gpt-4.1-nano": Family(patches(2.46)),
    "gpt-4.1": Family(tiles(85, 170)),
    "gpt-5-mini": Family(patches(1.62), ("medium", "minimal", "low", "high")),
    "gpt-5-nano": Family(patches(2.46), ("medium", "minimal", "low", "high")),
    "gpt-5.": Family(tiles(70, 140), ("none", "low", "medium", "high")),
    "gpt-5": Family(tiles(70, 140), ("medium", "minimal", "low", "high")),
}
_OTHER = Family(tiles(85, 170))


def family(model: str) -> Family:
    """Returns the family by the longest prefix of the name; unknown names count as gpt-4o."""
    bare = model.lower().removeprefix("ft:").partition(":")[0].rpartition("/")[2]
    matching = [prefix for prefix in _FAMILIES if bare.startswith(prefix)]
    return _FAMILIES[max(matching, key=len)] if matching else _OTHER
