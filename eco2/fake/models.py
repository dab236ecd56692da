"""What differs between families of models: how many tokens an image takes, and which parameters they refuse.

Figures: OpenAI's guide "Images and vision", section on calculating costs (tiles of 512 px for the larger
models, patches of 32 px for the small ones), and the API reference of chat completions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

ImageTokens = Callable[[int, int, bool], int]
"""(width, height in pixels, low detail?) → tokens."""


def tiles(base: int, tile: int) -> ImageTokens:
    """Low detail: `base`. Else the image is fitted into 2048 px, its short side to 768 px, and every
    512 px tile of that takes `tile` more."""

    def tokens(width: int, height: int, low: bool) -> int:
        if low:
            return base
        fit = min(1.0, 2048 / max(width, height))
        short = min(1.0, 768 / (min(width, height) * fit))
        scaled = (round(width * fit * short), round(height * fit * short))
        return base + tile * math.prod(max(1, math.ceil(side / 512)) for side in scaled)

    return tokens


def patches(factor: float, most: int = 1536) -> ImageTokens:
    """Every 32 px patch takes `factor`; at most `most` patches, larger images are shrunk to that.

    Low detail is the same image fitted into 512 px.
    """

    def tokens(width: int, height: int, low: bool) -> int:
        if low:
            fit = min(1.0, 512 / max(width, height))
            width, height = max(1, int(width * fit)), max(1, int(height * fit))
        count = math.ceil(width / 32) * math.ceil(height / 32)
        if count > most:
            count = _shrunk(width, height, most)
        return math.ceil(count * factor)

    return tokens


def _shrunk(width: int, height: int, most: int) -> int:
    """Patches of the largest scaled image that whole patches cover within the budget."""
    shrink = math.sqrt(most * 32 * 32 / (width * height))
    across, down = width * shrink / 32, height * shrink / 32
    shrink *= min(math.floor(across) / across, math.floor(down) / down)
    return min(most, math.ceil(int(width * shrink) / 32) * math.ceil(int(height * shrink) / 32))


@dataclass(frozen=True, slots=True)
class Family:
    """`efforts`: accepted values of `reasoning_effort`, the default first; empty for models that do not
    reason. While a model reasons it takes no `temperature` or `top_p` but 1."""

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
    """The family by the longest prefix of the name, without a router's; unknown names count like gpt-4o."""
    bare = model.lower().removeprefix("ft:").partition(":")[0].rpartition("/")[2]
    matching = [prefix for prefix in _FAMILIES if bare.startswith(prefix)]
    return _FAMILIES[max(matching, key=len)] if matching else _OTHER
