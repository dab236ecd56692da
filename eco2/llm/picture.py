"""Reads a call's image for a model in this process, and prepares its pixels for the network.

Guarantees: only `data:` URLs are read (nothing is fetched), sizes are checked before anything is decoded, and
every fault of a picture raises `ProviderRefused` with a code for the client.
"""

import base64
import binascii
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from eco2.errors import ProviderRefused
from eco2.thumbnail import opaque

MAX_BYTES = 10_000_000
MAX_PIXELS = 50_000_000

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_CROP = 0.875


def image_bytes(url: str) -> bytes:
    """Returns the bytes of a base64 `data:` URL. Raises `ProviderRefused` for every other URL."""
    scheme, _, rest = url.partition(":")
    if scheme.lower() != "data":
        raise ProviderRefused(
            "the local model does not fetch pictures: upload the picture, or send it as a data: URL",
            code="IMAGE_URL_UNSUPPORTED",
        )
    header, _, payload = rest.partition(",")
    if len(payload) > MAX_BYTES * 4 / 3 + 4:
        raise too_large()
    try:
        if not header.endswith(";base64"):
            raise ValueError("not base64")
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise unreadable(error) from error


def views(data: bytes, side: int) -> NDArray[np.float32]:
    """Returns two views of the picture: its centre, and all of it.

    Shape (2, 3, side, side), RGB, each value as (x - 127) / 128.

    The network was trained on centres; an object that reaches the edges is complete only in the second view.
    Raises `ProviderRefused`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise too_large()
            image.draft("RGB", (2 * side, 2 * side))
            upright = opaque(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large() from error
    except (OSError, ValueError, SyntaxError) as error:
        raise unreadable(error) from error
    edge = min(upright.size) * _CROP
    left, top = (upright.width - edge) / 2, (upright.height - edge) / 2
    box = (left, top, left + edge, top + edge)
    centre = upright.resize((side, side), Image.Resampling.BICUBIC, box=box)
    whole = ImageOps.pad(upright, (side, side), Image.Resampling.BICUBIC, color="white")
    values = np.stack([np.asarray(centre), np.asarray(whole)]).astype(np.float32)
    scaled = (values - np.float32(127)) / np.float32(128)
    return scaled.transpose(0, 3, 1, 2)


def too_large() -> ProviderRefused:
    """Returns the error for a picture that is too large."""
    return ProviderRefused(
        f"the picture is larger than {MAX_BYTES // 1_000_000} MB or {MAX_PIXELS // 1_000_000} megapixels: "
        "send a smaller one",
        code="IMAGE_TOO_LARGE",
    )


def unreadable(error: Exception) -> ProviderRefused:
    """Returns the error for a picture that cannot be read."""
    return ProviderRefused(
        f"the picture cannot be read ({error}): send a JPEG, PNG, WebP or GIF", code="UNSUPPORTED_IMAGE"
    )
