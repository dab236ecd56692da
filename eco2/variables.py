"""Distinguishes settings from the variables that Kubernetes adds for Services."""

import re
from collections.abc import Mapping

_OF_A_SERVICE = re.compile(
    r"SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?", re.ASCII
)
_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


def of_services(environment: Mapping[str, str]) -> frozenset[str]:
    """Returns the names that Kubernetes added for Services such as `eco2` or `eco2-gateway` in the namespace.

    A pod gets them unless it has `enableServiceLinks: false`. `ECO2_PORT` may be one, and a setting as well:
    the value, `tcp://10.0.0.1:8000`, shows which.
    """
    hosts = {name.removesuffix("_SERVICE_HOST") for name in environment if name.endswith("_SERVICE_HOST")}
    return frozenset(
        name
        for name, value in environment.items()
        for host in hosts
        if name.startswith(f"{host}_")
        and (
            _OF_A_SERVICE.fullmatch(name.removeprefix(f"{host}_"))
            or (name == f"{host}_PORT" and _ADDRESS.fullmatch(value))
        )
    )
