"""Schemas of the custom resources, made strict: a field that they do not name is an error.

KEDA's is its real definition where a file of it is at hand (`KEDA_CRD`, by default beside the project), else
what the package cloudcoil-models-keda knows: types and required fields. Of Prometheus' operator the same kind
of package is used. RabbitMQ's operator has none: nobody judges its resource.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema_rs
import yaml

Tree = dict[str, Any]

KEDA_CRD = Path(os.environ.get("KEDA_CRD") or "../shared/keda-scaledobject-crd.yaml")
PYTHON = Path("build/chart-venv/bin/python")
MODELS = {
    "ScaledObject": "cloudcoil.models.keda.v1alpha1",
    "ServiceMonitor": "cloudcoil.models.prometheus_operator.v1",
    "PrometheusRule": "cloudcoil.models.prometheus_operator.v1",
}
UNCHECKED = ("RabbitmqCluster",)


@dataclass(frozen=True)
class Schema:
    """Of one kind. `source`: where it is from."""

    kind: str
    source: str
    tree: Tree

    def mistakes(self, manifest: Mapping[str, Any]) -> list[str]:
        """What is wrong with `manifest`; empty if nothing."""
        found = jsonschema_rs.validator_for(self.tree).iter_errors(manifest)
        return [f"{'/'.join(map(str, error.instance_path))}: {error.message}" for error in found]


def schemas() -> Iterator[Schema]:
    """One for each custom resource that can be judged."""
    for kind, module in MODELS.items():
        if kind == "ScaledObject" and KEDA_CRD.exists():
            (version,) = yaml.safe_load(KEDA_CRD.read_text())["spec"]["versions"]
            tree = _anything_of_metadata(version["schema"]["openAPIV3Schema"])
            yield Schema(kind, f"KEDA's own definition, {KEDA_CRD}", strict(tree))
        else:
            code = f"import json, {module} as m; print(json.dumps(m.{kind}.model_json_schema(by_alias=True)))"
            printed = subprocess.run([PYTHON, "-c", code], check=True, capture_output=True, text=True).stdout
            yield Schema(kind, f"the package of {module.rpartition('.')[0]}", strict(json.loads(printed)))


def strict(tree: Tree) -> Tree:
    """The same schema, refusing what it does not name. Objects without named fields stay open (labels …)."""

    def walk(node: object) -> object:
        if isinstance(node, list):
            return [walk(each) for each in node]
        if not isinstance(node, dict):
            return node
        closed = {name: walk(value) for name, value in node.items()}
        if isinstance(closed.get("properties"), dict) and "additionalProperties" not in closed:
            closed["additionalProperties"] = False
        return closed

    walked = walk(tree)
    assert isinstance(walked, dict)
    return walked


def _anything_of_metadata(tree: Tree) -> Tree:
    """A definition says of `metadata` only that it is an object: Kubernetes itself knows its fields."""
    metadata = {"type": "object", "required": ["name"]}
    return {**tree, "properties": {**tree["properties"], "metadata": metadata}}
