"""The gateway's configuration as plain values; only the command line reads the settings."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

Auth = Literal["none", "header"]
"""How a request's owner is found: not at all, or by the header `X-User-ID` that a trusted proxy sets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """Times are seconds, sizes bytes.

    `models`: names that a client may pin; `priced`: those of them whose price is known. `default_model`: of a
    job that pins none; None: any of them.
    `local_model`: the one of them that is no language model (`Pipeline.check_local`), if it is offered.
    `auth`: see `Auth`. `image_urls`: see `Form`. `hosts`: names that requests may be for; none: any.
    `max_upload`: of one body; `upload_room`: of all bodies that the process holds at once. A body has
    `upload_seconds` in all, and must come with `upload_rate` bytes a second after the first `upload_grace`
    seconds. `max_wait`, `timeout`: of jobs whose pipeline has none; `batch_max_wait`: of batch jobs, at
    least. `publish_timeout`: time that a request waits for the broker before 503; `lookup_timeout`: time that
    an event stream waits for its job before it opens without. `retry_after`: value of that header.
    `sse_comment`: pause between comments of an idle stream; `sse_retry`: pause before a client connects
    again; `sse_done_message`: an unnamed message follows a failed `done` under `/api/v1`. `streams_per_job`,
    `streams_per_owner`: event streams that may be open at once; 0: any number. `daily_usd`: sum that may be
    paid per UTC day before no further job is taken. `compat`: also answer as the predecessor did
    (`eco2.gateway.compat`).
    """

    models: tuple[str, ...]
    priced: tuple[str, ...] = ()
    default_model: str | None = None
    local_model: str | None = None
    auth: Auth = "none"
    image_urls: bool = True
    cors_origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    max_upload: int = 10 * 2**20
    upload_room: int = 64 * 2**20
    upload_seconds: float = 60.0
    upload_rate: float = 20_000.0
    upload_grace: float = 5.0
    max_wait: float = 180.0
    batch_max_wait: float = 3265.0
    timeout: float = 180.0
    publish_timeout: float = 5.0
    lookup_timeout: float = 1.0
    retry_after: int = 2
    sse_comment: float = 4.0
    sse_retry: float = 2.0
    sse_done_message: bool = True
    streams_per_job: int = 10
    streams_per_owner: int = 20
    daily_usd: Decimal | None = None
    compat: bool = False
