"""The chart as installations would ask for it: every values file, and the options together and apart."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CHART = Path("helm/eco2")
EXTERNAL = {"secrets.existingSecret": "eco2-keys"}
CLUSTER = {"rabbitmq.cluster.enabled": "true"}
SCALED = {"keda.enabled": "true"}
WATCHED = {f"monitoring.{part}.enabled": "true" for part in ("serviceMonitor", "rules", "dashboard")}
INGRESS = {"gateway.ingress.enabled": "true", "gateway.ingress.host": "scan.example.org"}
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "external-broker": EXTERNAL,
    "secret-of-the-chart": {
        "secrets.values.ECO2_AMQP_URL": "amqps://user:word@broker.example.org/",
        "secrets.values.OPENAI_API_KEY": "key",
        "secrets.values.ECO2_PROVIDERS__GEMINI__API_KEY": "key",
        "settings.ECO2_PROVIDERS__GEMINI__MODEL": "gemini-2.5-flash",
        "settings.ECO2_PROVIDERS__GEMINI__TPM": "4000000",
    },
    "everything": {
        **CLUSTER,
        **SCALED,
        **WATCHED,
        **INGRESS,
        "gateway.ingress.tlsSecret": "scan-tls",
        "image.digest": f"sha256:{'0' * 64}",
        "gateway.imageTag": "0.1.0",
        "image.pullSecrets[0]": "registry",
        "keda.authenticationRef.name": "prometheus",
        "networkPolicy.gatewayFrom[0].namespaceSelector.matchLabels.name": "ingress",
        "networkPolicy.metricsFrom[0].namespaceSelector.matchLabels.name": "monitoring",
        "networkPolicy.providerTo[0].ipBlock.cidr": "192.0.2.0/24",
        "monitoring.rules.labels.release": "prometheus",
        "gateway.podAnnotations.team": "scan",
        "worker.nodeSelector.pool": "workers",
        "worker.tolerations[0].key": "workers",
        "worker.tolerations[0].operator": "Exists",
        "settings.ECO2_DRAIN_GRACE": "90",
    },
    "least": {**EXTERNAL, "networkPolicy.enabled": "false", "gateway.preStopSeconds": "0"},
}
REFUSED: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "no broker": ("Where is RabbitMQ?", {}),
    "an unknown value": ("additional properties 'replica'", {**EXTERNAL, "worker.replica": "3"}),
    "an unknown setting": ("additional properties 'ECO2_RMP'", {**EXTERNAL, "settings.ECO2_RMP": "500"}),
    "a wrong type": ("got string, want integer", {**EXTERNAL, "settings.ECO2_RPM": "many"}),
    "a secret among the settings": ("'OPENAI_API_KEY'", {**EXTERNAL, "settings.OPENAI_API_KEY": "key"}),
    "an ingress without a host": ("ingress.host", {**EXTERNAL, "gateway.ingress.enabled": "true"}),
}
"""What helm must not render, and what it must say then."""


@dataclass(frozen=True)
class Rendering:
    """`arguments` of `helm template` and `helm lint`; `complaint`: what helm must say, if it must refuse."""

    name: str
    arguments: tuple[str, ...]
    complaint: str = ""


def renderings() -> Iterator[Rendering]:
    """Every values file, with a broker of its own and with one elsewhere; then the options."""
    for path in sorted(CHART.glob("values-*.yaml")):
        for name, broker in (("cluster", {**CLUSTER, **WATCHED, **INGRESS}), ("external", EXTERNAL)):
            yield Rendering(f"{path.stem}-{name}", ("--values", str(path), *_set(broker)))
    for name, options in OPTIONS.items():
        yield Rendering(name, _set(options))


def refused() -> Iterator[Rendering]:
    for name, (complaint, options) in REFUSED.items():
        yield Rendering(name, _set(options), complaint)


def _set(options: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(word for name, value in options.items() for word in ("--set", f"{name}={value}"))
