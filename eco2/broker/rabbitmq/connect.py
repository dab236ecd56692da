"""Opens connections, and puts a broker's refusal into its own words with what to do about it.

A refused login or vhost is `AccessRefused`. Any other reason that passes by itself, or by what an operator
does at the broker (a limit, a vhost that is down, no answer), is `BrokerUnavailable`.
"""

from dataclasses import dataclass

import aio_pika
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import AuthenticationError, ProbableAuthenticationError

from eco2.broker.addresses import Address
from eco2.broker.rabbitmq.connection_errors import closing, map_connection_errors, reason_of
from eco2.errors import BrokerUnavailable, ConfigurationError

CONNECT_TIMEOUT = 10.0
NOT_ALLOWED = 530


class AccessRefused(ConfigurationError):
    """The broker refuses the user, the password or the vhost: correct them, at either side."""


@dataclass(frozen=True, slots=True)
class Server:
    """Names the broker's product and version, as it does itself. `version`: as in `4.3.6`."""

    product: str
    version: str

    def __str__(self) -> str:
        return f"{self.product} {self.version}".strip()


async def connect(address: Address, name: str, heartbeat: float) -> AbstractConnection:
    """Opens a connection called `name`. `heartbeat` in seconds.

    Raises `AccessRefused`, or `BrokerUnavailable` with the broker's reason.
    """
    try:
        with map_connection_errors(BrokerUnavailable, f"no connection to {address}"):
            return await aio_pika.connect(
                address.url, name=name, heartbeat=str(round(heartbeat)), timeout=CONNECT_TIMEOUT
            )
    except BrokerUnavailable as error:
        cause = error.__cause__
        if isinstance(cause, AuthenticationError | ProbableAuthenticationError):
            raise AccessRefused(
                f"the broker at {address} refuses the login of ECO2_AMQP_URL: {reason_of(cause)}; correct "
                "user and password there, or at the broker (`rabbitmqctl change_password`)"
            ) from cause
        closed = closing(cause)
        if closed is not None and closed.code == NOT_ALLOWED:
            raise explain_not_allowed(address, closed.text) from cause
        raise


def server(connection: AbstractConnection) -> Server:
    """Returns product and version of the broker of an open `connection`."""
    properties = connection.transport.connection.server_properties if connection.transport else None
    given = properties or {}
    return Server(str(given.get("product", "unknown")), str(given.get("version", "")))


def explain_not_allowed(address: Address, text: str) -> BrokerUnavailable | AccessRefused:
    """Returns the error for the broker's refusal `text` of code 530, with what to do about it."""
    if "limit (" in text:  # of the vhost, the user or the node; as in `connection limit (3) is reached`
        return BrokerUnavailable(
            f"the broker at {address} takes no further connection: {text}; raise that limit, or end what "
            "holds the others (`rabbitmqctl list_connections name client_properties`)"
        )
    if text.endswith("is down"):
        return BrokerUnavailable(f"the broker at {address}: {text}")
    return AccessRefused(
        f"the broker at {address} refuses the vhost of ECO2_AMQP_URL: {text}; correct it there, make it "
        "(`rabbitmqctl add_vhost`), or let the user in (`rabbitmqctl set_permissions`)"
    )
