"""Converts the torch weights of EfficientNet-Lite0 into an ONNX file, once for each cache.

The weights come from TensorFlow, hence its "same" padding (more on the right and below) and its epsilon.
Batch norm is folded into the convolutions before it, since at inference both are linear. The class names
are stored in the file, so that a later start reads one file and imports only onnxruntime.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from eco2.llm.checkpoint import read_checkpoint

SIDE = 224
"""Height and width of the input, pixels."""
CLASSES_KEY = "classes"
"""Name of the metadata entry that holds the class names, one per line."""

_EPSILON = 1e-3
_DOWNSAMPLING_BLOCKS = (1, 3, 5, 11)
_OPSET = 17

Weights = Mapping[str, NDArray[np.float32]]


def write_onnx(weights: Path, classes: Sequence[str], target: Path) -> None:
    """Converts the checkpoint `weights` to `target`; a reader sees the complete file or none.

    Input `image`: float32 (n, 3, 224, 224), RGB, (x - 127) / 128. Output `scores`: (n, len(classes)).
    """
    model = build(read_checkpoint(weights), classes)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=target.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(model.SerializeToString())
            os.fsync(handle)
        Path(draft).replace(target)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def build(weights: Weights, classes: Sequence[str]) -> onnx.ModelProto:
    """Builds the network as an ONNX model with softmax scores."""
    graph = _Graph(weights)
    tensor = graph.conv("image", "_conv_stem", "_bn0", stride=2)
    blocks = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("_blocks."))
    for index in range(blocks):
        tensor = graph.block(tensor, index)
    tensor = graph.conv(tensor, "_conv_head", "_bn1")
    tensor = graph.add("GlobalAveragePool", tensor)
    tensor = graph.add("Flatten", tensor)
    tensor = graph.add("Gemm", tensor, "_fc.weight", "_fc.bias", transB=1)
    graph.add("Softmax", tensor, output="scores")
    return graph.model(classes)


class _Graph:
    """Collects nodes and constants. `channels`: the depth of each tensor that a convolution makes."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.channels = {"image": 3}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[np.float32]] = {
            "zero": np.array(0, np.float32),
            "six": np.array(6, np.float32),
            "_fc.weight": weights["_fc.weight"],
            "_fc.bias": weights["_fc.bias"],
        }

    def add(
        self, operator: str, *inputs: str, output: str | None = None, **attributes: int | str | list[int]
    ) -> str:
        """Adds a node, and returns the name of its output."""
        output = output or f"t{len(self._nodes)}"
        node = helper.make_node(operator, inputs, [output])
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self._nodes.append(node)
        return output

    def block(self, tensor: str, index: int) -> str:
        """Adds an inverted residual: widen, filter by channel, narrow; add the input if the shape allows."""
        at = f"_blocks.{index}."
        stride = 2 if index in _DOWNSAMPLING_BLOCKS else 1
        inner = tensor
        if f"{at}_expand_conv.weight" in self.weights:
            inner = self.conv(inner, f"{at}_expand_conv", f"{at}_bn0")
        inner = self.conv(inner, f"{at}_depthwise_conv", f"{at}_bn1", stride=stride)
        inner = self.conv(inner, f"{at}_project_conv", f"{at}_bn2", clip=False)
        if stride == 1 and self.channels[inner] == self.channels[tensor]:
            inner = self.add("Add", inner, tensor)
            self.channels[inner] = self.channels[tensor]
        return inner

    def conv(self, tensor: str, conv: str, norm: str, stride: int = 1, clip: bool = True) -> str:
        """Adds a convolution with its batch norm folded in, and returns the name of its output."""
        kernel, bias = fold(self.weights, conv, norm)
        self._constants |= {f"{conv}.weight": kernel, f"{conv}.bias": bias}
        output = self.add(
            "Conv",
            tensor,
            f"{conv}.weight",
            f"{conv}.bias",
            auto_pad="SAME_UPPER",
            strides=[stride, stride],
            group=self.channels[tensor] // kernel.shape[1],
        )
        output = self.add("Clip", output, "zero", "six") if clip else output
        self.channels[output] = kernel.shape[0]
        return output

    def model(self, classes: Sequence[str]) -> onnx.ModelProto:
        """Returns the model of all nodes."""
        floats = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "efficientnet-lite0",
            [helper.make_tensor_value_info("image", floats, ["n", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("scores", floats, ["n", len(classes)])],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        opset = helper.make_opsetid("", _OPSET)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="eco2")
        helper.set_model_props(model, {CLASSES_KEY: "\n".join(classes)})
        return model


def fold(weights: Weights, conv: str, norm: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns kernel and bias of the one convolution that equals `conv` followed by batch norm `norm`."""
    scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + _EPSILON)
    kernel = weights[f"{conv}.weight"] * scale.reshape(-1, 1, 1, 1)
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    return kernel.astype(np.float32), bias.astype(np.float32)
