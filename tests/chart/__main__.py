"""Judges the chart without a cluster: `python -m tests.chart` (`make chart`).

Lints it, renders it as installations would, and has every manifest checked by the newest schemas of
Kubernetes, by those of the custom resources, by checkov, and by our own settings. Deliberate mistakes must be
found each time.
Exit codes: 0 nothing is wrong · 1 something is.
"""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from eco2.broker.addresses import parse
from eco2.environment import load
from eco2.errors import ConfigurationError
from tests.chart.renderings import CHART, Rendering, refused, renderings
from tests.chart.schemas import UNCHECKED, Schema, schemas

HELM = "build/chart-bin/helm"
TOOLS = Path("build/chart-venv/bin")
OUT = Path("build/chart-rendered")
KUBERNETES = "1.37"
OWN = ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1")
"""API versions that Kubernetes itself has a schema of."""

Manifest = dict[str, Any]


class Judge:
    """Counts what is wrong, and says everything as it comes."""

    def __init__(self) -> None:
        self.wrong = 0

    def says(self, what: str, mistakes: list[str]) -> None:
        print(f"{'ok' if not mistakes else 'WRONG':<7}{what}", flush=True)
        for mistake in mistakes:
            print(f"       {mistake}")
        self.wrong += bool(mistakes)


def render(rendering: Rendering, judge: Judge) -> list[Manifest]:
    """Its manifests, linted and written to `OUT`."""
    lint = _run(HELM, "lint", "--strict", str(CHART), *rendering.arguments)
    judge.says(f"{rendering.name}: helm lint --strict", _said(lint))
    done = _run(HELM, "template", "eco2", str(CHART), "--namespace", "scan", *rendering.arguments)
    judge.says(f"{rendering.name}: helm template", _said(done))
    (OUT / f"{rendering.name}.yaml").write_text(done.stdout)
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def kubernetes(manifests: list[Manifest]) -> list[str]:
    """What Kubernetes' schemas have against the manifests of its own kinds."""
    path = OUT / "kubernetes.yaml"
    path.write_text(yaml.safe_dump_all(one for one in manifests if one["apiVersion"] in OWN))
    return _said(_run(str(TOOLS / "kubernetes-validate"), "-k", KUBERNETES, "--strict", "--quiet", str(path)))


def custom(manifests: list[Manifest], known: Mapping[str, Schema]) -> Iterator[str]:
    """What the custom resources' schemas have against the others."""
    for manifest in manifests:
        if manifest["apiVersion"] in OWN or manifest["kind"] in UNCHECKED:
            continue
        if (schema := known.get(manifest["kind"])) is None:
            yield f"no schema for {manifest['kind']}"
        else:
            yield from (f"{manifest['kind']}: {mistake}" for mistake in schema.mistakes(manifest))


def settings(manifests: list[Manifest]) -> list[str]:
    """What our own program has against the variables of the ConfigMap."""
    (variables,) = (
        one["data"] for one in manifests if one["kind"] == "ConfigMap" and "ECO2_RPM" in one["data"]
    )
    secret: Mapping[str, str] = next((one["stringData"] for one in manifests if one["kind"] == "Secret"), {})
    try:
        with patch.dict(os.environ, {**variables, **secret}):
            load()
    except ConfigurationError as error:
        return [str(error)]
    return []


def scaled(manifests: list[Manifest]) -> list[str]:
    """Whoever a scaler owns has no `replicas`, and everybody else has."""
    targets = {one["spec"]["scaleTargetRef"]["name"] for one in manifests if one["kind"] == "ScaledObject"}
    deployments = {one["metadata"]["name"]: one["spec"] for one in manifests if one["kind"] == "Deployment"}
    wrong = [f"{name} does not exist" for name in targets - deployments.keys()]
    return wrong + [
        f"{name}: replicas and a scaler, or neither"
        for name, spec in deployments.items()
        if ("replicas" in spec) == (name in targets)
    ]


def nodes(manifests: list[Manifest]) -> list[str]:
    """Lists the pods that do not get the address of each node of a cluster in the chart."""
    replicas = [one["spec"]["replicas"] for one in manifests if one["kind"] == "RabbitmqCluster"]
    urls = [
        variable["value"]
        for one in manifests
        if one["kind"] == "Deployment"
        for container in one["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env", ())
        if variable["name"] == "ECO2_AMQP_URL"
    ]
    wrong = [url for url in urls if [len(set(map(str, parse(url))))] != replicas]
    return wrong + ["no pod knows the cluster"] * (bool(replicas) and not urls)


def absences(manifests: list[Manifest]) -> list[str]:
    """Rules that would not notice an absence while another installation is there."""
    rules = [rule for one in manifests if one["kind"] == "PrometheusRule" for rule in _rules(one)]
    own = f'namespace="{manifests[0]["metadata"]["namespace"]}"'
    return [rule["alert"] for rule in rules if "absent(" in rule["expr"] and own not in rule["expr"]]


def _rules(manifest: Manifest) -> Iterator[dict[str, str]]:
    for group in manifest["spec"]["groups"]:
        yield from group["rules"]


def queries(manifests: list[Manifest]) -> list[str]:
    """What promtool has against the scaler's queries; where it is not installed, nothing."""
    triggers = [
        trigger for one in manifests if one["kind"] == "ScaledObject" for trigger in one["spec"]["triggers"]
    ]
    rules = [{"record": "a:b", "expr": trigger["metadata"]["query"]} for trigger in triggers]
    if not rules or shutil.which("promtool") is None:
        return []
    path = OUT / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "scaler", "rules": rules}]}))
    done = _run("promtool", "check", "rules", "--lint=none", str(path))
    path.unlink()
    return _said(done)


def typos(manifests: list[Manifest], known: Mapping[str, Schema]) -> Iterator[tuple[str, bool]]:
    """(a deliberate mistake, whether it is found)."""
    for kind, field in (("Deployment", "selector"), ("Service", "ports")):
        yield f"{kind}.spec.{field}", bool(kubernetes([_mistyped(manifests, kind, field)]))
    for kind, field in (
        ("ScaledObject", "maxReplicaCount"),
        ("ScaledObject", "triggers"),
        ("ServiceMonitor", "endpoints"),
        ("PrometheusRule", "groups"),
    ):
        found = known[kind].mistakes(_mistyped(manifests, kind, field))
        yield f"{kind}.spec.{field}", bool(found)


def _mistyped(manifests: list[Manifest], kind: str, field: str) -> Manifest:
    manifest = copy.deepcopy(next(one for one in manifests if one["kind"] == kind))
    manifest["spec"][f"{field}x"] = manifest["spec"].pop(field)
    return manifest


def main() -> int:
    """Judges all renderings, then what must be refused."""
    judge, known = Judge(), {schema.kind: schema for schema in schemas()}
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.glob("*.yaml"):
        old.unlink()
    for schema in known.values():
        print(f"       {schema.kind} is judged by {schema.source}")
    print(f"       {', '.join(UNCHECKED)} is judged by nothing: there is no schema of it here")
    complete: list[Manifest] = []
    for rendering in renderings():
        manifests = render(rendering, judge)
        if not manifests:
            continue
        complete = manifests if rendering.name == "everything" else complete
        judge.says(
            f"{rendering.name}: {len(manifests)} manifests, Kubernetes {KUBERNETES}", kubernetes(manifests)
        )
        judge.says(f"{rendering.name}: custom resources", list(custom(manifests, known)))
        judge.says(f"{rendering.name}: what is absent is this installation's", absences(manifests))
        judge.says(f"{rendering.name}: variables that eco2 takes", settings(manifests))
        judge.says(f"{rendering.name}: nodes of RabbitMQ", nodes(manifests))
        judge.says(
            f"{rendering.name}: replicas, and the scaler's queries", scaled(manifests) + queries(manifests)
        )
    for rendering in refused():
        done = _run(HELM, "template", "eco2", str(CHART), *rendering.arguments)
        as_wanted = done.returncode != 0 and rendering.complaint in done.stderr
        judge.says(
            f"refused: {rendering.name}", [] if as_wanted else [f"helm said: {done.stderr or 'nothing'}"]
        )
    for mistake, found in typos(complete, known):
        judge.says(f"typo found: {mistake}", [] if found else ["nobody noticed"])
    (OUT / "kubernetes.yaml").unlink()
    for what in (("--directory", str(OUT)), ("--file", "Dockerfile")):
        checkov = _run(str(TOOLS / "checkov"), "--config-file", "helm/checkov.yaml", "--skip-download", *what)
        judge.says(f"checkov {what[1]}, but for what helm/checkov.yaml explains", _said(checkov))
    print("Nothing is wrong." if not judge.wrong else f"{judge.wrong} things are wrong.")
    return min(judge.wrong, 1)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The output of a command that failed, as lines; none of one that did not."""
    return (done.stdout + done.stderr).splitlines() if done.returncode else []


if __name__ == "__main__":
    sys.exit(main())
