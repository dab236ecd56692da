"""Declares all settings of Eco² in one frozen class, with the rules that they must keep together.

Each default works without change. `eco2/environment.py` loads them, for the command line only.
"""

import ipaddress
import math
import os
import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from eco2 import remote
from eco2.broker import addresses
from eco2.sizing import RPM, TPM, VIEW_MINUTES, WORKER_CALLS, Sizing, size
from eco2.variables import of_services

FIRST = "The eight to set first"
RUN = "Jobs and the broker"
HTTP = "HTTP"
MODEL = "Models"
MORE = "Further providers"
OTHER = "Budgets of other APIs"
LOG = "Logs"
MAX_PREFIX = 100
"""Characters; with a pipeline's name of 64 the longest queue name stays below AMQP's 255 bytes."""
MAX_RPM, MAX_TPM = 1_000_000, 10_000_000_000
"""More than any provider allows; a larger value is a mistake, and would size prefetch and memory."""
DAY = 86_400
MAX_CONCURRENCY = 100_000
MIN_CALLS = 3
"""Calls within the time of one job: one more than a scan makes."""
RECONNECT_MARGIN = 6.5
"""Maximum seconds from the time-out of a publish until a lost connection is noticed and opened again
(`eco2/broker/rabbitmq/probe.py`)."""
PROBES_OFFSET = 1000
"""Default distance of a gateway's probes port above its port."""
GROUPS = (FIRST, RUN, HTTP, MODEL, LOG)


def _amqp_url(url: str) -> str:
    addresses.check_files(addresses.parse(url))
    return remote.clean(url)


def _host(host: str) -> str:
    if ":" in host:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError("must be an address or a name, without http:// and without a port") from None
    elif not re.fullmatch(r"[A-Za-z0-9._-]+", host):
        raise ValueError("must be an address such as 127.0.0.1 or ::1, or a name")
    return host


def _prefix(prefix: str) -> str:
    if len(prefix) > MAX_PREFIX:
        raise ValueError(f"must have at most {MAX_PREFIX} characters: it begins every queue's name")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)*", prefix):
        raise ValueError("must be lower-case letters, digits and dashes, in words separated by dots")
    return prefix


def _pipelines(imports: str) -> str:
    for entry in entries(imports) or ("",):
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", entry):
            raise ValueError(f"{entry!r} is no import string: write package.module:name, separated by commas")
    return imports


def _origins(origins: str) -> str:
    for origin in entries(origins):
        if not re.fullmatch(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]+)?", origin):
            raise ValueError(
                f"{origin!r} is no exact origin as browsers send it: write https://app.example, in lower "
                "case, other letters as xn--…, no path, no wildcard"
            )
    return origins


def _hosts(hosts: str) -> str:
    for host in entries(hosts):
        if not re.fullmatch(r"(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", host):
            raise ValueError(f"{host!r} is no host: write api.example, *.example or [::1], without a port")
    return hosts


def _key(key: SecretStr) -> SecretStr:
    return SecretStr(remote.api_key(key.get_secret_value()))


ApiKey = Annotated[SecretStr, AfterValidator(_key)]
BaseUrl = Annotated[str, AfterValidator(remote.base_url)]
ModelName = Annotated[str, AfterValidator(remote.model_name)]


def size_for_scans(rpm: float, tpm: float) -> Sizing:
    """Sizes a worker as for the default pipeline: settings are read before any pipeline is imported."""
    from eco2.stages import SIZE  # here: the command line reads settings without the scan's modules

    return size(rpm, tpm, SIZE)


def _by_budget(value: int, info: ValidationInfo) -> int:
    """Replaces 0 by the value for the limits; if these are invalid, only their error is reported."""
    if value or not info.data.keys() >= {"rpm", "tpm"}:
        return value
    sizing = size_for_scans(info.data["rpm"], info.data["tpm"])
    return sizing.prefetch if info.field_name == "prefetch" else sizing.concurrency


def entries(text: str) -> tuple[str, ...]:
    """Splits a list that is separated by commas."""
    return tuple(filter(None, map(remote.clean, text.split(","))))


def _setting(default: Any, group: str, *, unit: str = "", computed: bool = False, **options: Any) -> Any:
    """Declares a setting; its docstring is its text in the docs. `options`: of pydantic's `Field`."""
    extra: dict[str, Any] = {"group": group, "unit": unit, "computed": computed}
    return Field(default, json_schema_extra=extra, **options)


Counting = Literal["request", "input", "usage"]


class ProviderSettings(BaseModel):
    """A further provider. The field `rpm` of a provider GEMINI is `ECO2_PROVIDERS__GEMINI__RPM`."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, use_attribute_docstrings=True
    )

    api_key: ApiKey = _setting(..., MORE)
    """API key."""
    base_url: BaseUrl | None = _setting(None, MORE)
    """Base URL of its OpenAI-compatible API. Unset: OpenAI's."""
    model: ModelName = _setting(..., MORE)
    """Model to use."""
    rpm: int = _setting(RPM, MORE, unit="requests/min", ge=1, le=MAX_RPM)
    """Its limit of requests per minute."""
    tpm: int = _setting(TPM, MORE, unit="tokens/min", ge=1, le=MAX_TPM)
    """Its limit of tokens per minute."""
    counting: Counting = _setting("request", MORE)
    """How it counts a call's tokens, as in `ECO2_COUNTING`."""
    concurrency: Annotated[int, AfterValidator(_by_budget)] = _setting(
        0, MORE, unit="calls", computed=True, ge=0, le=MAX_CONCURRENCY
    )
    """Calls in flight per worker. Unset or 0: computed from its limits."""
    embeddings: bool = _setting(False, MORE)
    """Its model embeds texts: it takes the calls of `eco2.pipeline.embedding`, and no others."""


class BudgetSettings(BaseModel):
    """The budget of another API. The field `rpm` of a budget MAPS is `ECO2_BUDGETS__MAPS__RPM`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    rpm: int = _setting(..., OTHER, unit="requests/min", ge=1, le=MAX_RPM)
    """Requests per minute of all workers together, as `context.reserve` counts them."""
    tpm: int | None = _setting(None, OTHER, unit="tokens/min", ge=1, le=MAX_TPM)
    """Tokens, or whatever else the API counts, per minute. Unset: no limit."""


class Settings(BaseSettings):
    """All settings. Field `prefetch` is the variable `ECO2_PREFETCH`; an empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix="ECO2_",
        env_ignore_empty=True,
        env_nested_delimiter="__",
        frozen=True,
        populate_by_name=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    amqp_url: Annotated[str, AfterValidator(_amqp_url)] | None = _setting(None, FIRST, repr=False)
    """RabbitMQ's URL; separate the hosts of a cluster by commas, they are tried in turn. Escape special
    characters in the password: `%2F` for `/`. Unset: `eco2 serve` and `eco2 demo` use the embedded broker, in
    memory, and jobs are lost when the process ends."""
    prefix: Annotated[str, AfterValidator(_prefix)] = _setting("eco2", FIRST)
    """Prefix of the names of all queues, streams and exchanges. Two installations on one RabbitMQ need
    different prefixes."""
    pipelines: Annotated[str, AfterValidator(_pipelines)] = _setting("eco2.stages:scan", FIRST)
    """Import strings of the pipelines to serve, separated by commas."""
    rpm: int = _setting(RPM, FIRST, unit="requests/min", ge=1, le=MAX_RPM)
    """The provider's limit of requests per minute. `eco2 size` shows the workers that it needs."""
    tpm: int = _setting(TPM, FIRST, unit="tokens/min", ge=1, le=MAX_TPM)
    """The provider's limit of tokens per minute."""
    max_wait: float = _setting(180, FIRST, unit="s", gt=0, le=7 * DAY)
    """Time from the acceptance of a job until its first call is granted, or it fails with `EXPIRED`, for
    pipelines without a `max_wait` of their own. A client may ask for less. Copies of orders are kept for the
    whole life of a job, in full hours; `docs/operations.md` shows how to change that later."""
    drain_grace: float = _setting(70, FIRST, unit="s", gt=0, le=DAY)
    """Time that a stopping worker waits for calls in flight. The process needs 20 s more before it is killed
    (terminationGracePeriodSeconds, stop_grace_period)."""
    retention_hours: float = _setting(72, FIRST, unit="h", gt=0, le=87_600)
    """Age at which the journal deletes events; results can be read until then."""
    prefetch: Annotated[int, AfterValidator(_by_budget)] = _setting(
        0, RUN, unit="jobs", computed=True, ge=0, le=65_535
    )
    """Jobs of one pipeline that a worker runs at once. Unset or 0: computed from `ECO2_RPM` and `ECO2_TPM`
    (`docs/sizing.md`)."""
    concurrency: Annotated[int, AfterValidator(_by_budget)] = _setting(
        0, RUN, unit="calls", computed=True, ge=0, le=MAX_CONCURRENCY
    )
    """Model calls in flight per worker. Unset or 0: computed, as above. Lower it if the worker's memory or
    the provider's connections are exhausted before its rate limit."""
    batch_max_wait: float | None = _setting(None, RUN, unit="s", gt=0, le=7 * DAY)
    """As `ECO2_MAX_WAIT`, for jobs of the priority `batch`, which never have less than the interactive ones
    of their pipeline. Unset: as long as copies of orders are kept in any case, 54 minutes by default."""
    timeout: float = _setting(180, RUN, unit="s", gt=0, le=7 * DAY)
    """Time from the start of a job until it fails with `TIMEOUT`, for pipelines without a `timeout` of their
    own. Time in which it waits to be tried again is not counted. A client may ask for less."""
    job_deadline: float | None = _setting(None, RUN, unit="s", gt=0, le=7 * DAY)
    """Sets `ECO2_MAX_WAIT` and `ECO2_TIMEOUT`, as far as they are unset: the name in release 0.1."""
    call_timeout: float = _setting(60, RUN, unit="s", gt=0, le=DAY)
    """Time-out of one model call."""
    view_minutes: float = _setting(VIEW_MINUTES, RUN, unit="min", gt=0, le=10_080)
    """Time for which idempotency keys count, and in which operators are shown jobs that have ended."""
    holder_timeout: float = _setting(15, RUN, unit="s", ge=1, le=3600)
    """Silence of a worker after which others take its jobs over. It must exceed the time in which a worker
    notices a lost connection and reconnects, or its calls in flight are paid for twice."""
    heartbeat: int = _setting(10, RUN, unit="s", ge=1, le=60)
    """AMQP heartbeat interval. A dead peer is noticed after two to three intervals."""
    publish_timeout: float = _setting(5, RUN, unit="s", gt=0, le=300)
    """Time that a publish waits for the broker's confirm before it is sent again."""
    host: Annotated[str, AfterValidator(_host)] = _setting("127.0.0.1", HTTP)
    """Address that the gateway listens on; 0.0.0.0 in a container."""
    port: int = _setting(8000, HTTP, ge=0, le=65_535)
    """Port of the gateway; 0: any free port."""
    hosts: Annotated[str, AfterValidator(_hosts)] = _setting("", HTTP)
    """Allowed values of the `Host` header, separated by commas; `*.example` allows all subdomains. Unset: on
    a loopback address, loopback names only; else all."""
    probes_host: Annotated[str, AfterValidator(_host)] = _setting("127.0.0.1", HTTP)
    """Address of a gateway's health checks and metrics; 0.0.0.0 in a container."""
    probes_port: int | None = _setting(None, HTTP, ge=0, le=65_535)
    """Port of the health checks and metrics of a gateway (or `eco2 serve`); clients must not reach it. Unset:
    `ECO2_PORT` + 1000 (9000). 0: any free port."""
    worker_host: Annotated[str, AfterValidator(_host)] = _setting("127.0.0.1", HTTP)
    """Address of a worker's health checks and metrics; 0.0.0.0 in a container."""
    worker_port: int = _setting(8001, HTTP, ge=0, le=65_535)
    """Port of a worker's health checks and metrics; 0: any free port."""
    auth: Literal["none", "header"] = _setting("none", HTTP)
    """Owner of a job. `none`: anyone who knows its id may read it. `header`: the user that a trusted proxy
    names in `X-User-ID`; the proxy must remove that header from clients' requests."""
    cors_origins: Annotated[str, AfterValidator(_origins)] = _setting("", HTTP)
    """Origins (CORS) that may call the gateway with credentials, separated by commas."""
    sse_comment: float = _setting(4, HTTP, unit="s", ge=1, le=40)
    """Interval of comment lines that keep an idle event stream open: read time-outs of HTTP clients start at
    5 s (httpx) and 10 s (OkHttp), of proxies at 60 s; `eco2.client` uses 45 s."""
    sse_retry: float = _setting(2, HTTP, unit="s", gt=0, le=3600)
    """Time that a client waits before it reconnects a broken event stream."""
    sse_done_message: bool = _setting(True, HTTP)
    """Under `/api/v1`, send an unnamed message with the status `completed` after a `done` that failed or was
    cancelled: the existing Eco² app then shows its error page at once, not after two minutes. Turn it off if
    clients of that prefix read unnamed messages."""
    compat: bool = _setting(False, HTTP)
    """Also serve the predecessor's paths for the first of `ECO2_PIPELINES`, with 200 for a new job
    (`docs/http.md`), for its load scripts and clients."""
    max_upload_mb: float = _setting(10, HTTP, unit="MB", gt=0, le=1000)
    """Maximum size of a request body."""
    image_urls: Literal["auto", "on", "off"] = _setting("auto", HTTP)
    """Whether a client may give an `http(s)` URL of its picture, which the provider fetches. `auto`: only if
    all providers are OpenAI, which fetches from its own network; a provider at another URL
    (`OPENAI_BASE_URL`, `ECO2_PROVIDERS__NAME__BASE_URL`) might fetch from inside your network."""
    upload_room_mb: float = _setting(64, HTTP, unit="MB", gt=0)
    """Maximum total size of the request bodies that a gateway holds at once; further requests are refused
    with 429. Its memory limit must include twice this size."""
    max_connections: int = _setting(4_000, HTTP, unit="connections", ge=1)
    """Maximum number of connections to a gateway; further ones are answered with 503."""
    streams_per_job: int = _setting(10, HTTP, unit="streams", ge=0)
    """Maximum number of open event streams of one job at a gateway; 0: no limit."""
    streams_per_owner: int = _setting(20, HTTP, unit="streams", ge=0)
    """Maximum number of open event streams of one owner at a gateway; 0: no limit. Applies only if
    `ECO2_AUTH` names owners."""
    default_model: ModelName | None = _setting(None, MODEL)
    """Model of a job that names none. Unset: `ECO2_OPENAI_MODEL` if a key is set, else `local`."""
    openai_model: ModelName = _setting("gpt-5.1", MODEL)
    """Model to use at OpenAI or at the compatible provider."""
    openai_api_key: ApiKey | None = _setting(None, MODEL, validation_alias="OPENAI_API_KEY")
    """The provider's API key. Unset: only the local model is offered."""
    openai_base_url: BaseUrl | None = _setting(None, MODEL, validation_alias="OPENAI_BASE_URL")
    """Base URL of an OpenAI-compatible provider. Unset: OpenAI."""
    counting: Counting = _setting("request", MODEL)
    """How the provider counts a call against the token limit. `request`: the greater of the prompt and
    `max_completion_tokens` (OpenAI); `input`: the prompt (Gemini); `usage`: prompt and answer."""
    providers: dict[str, ProviderSettings] = _setting({}, MODEL)
    """Further providers by name, each with its own variables (below). A job that names no model goes to the
    provider with the shortest expected wait."""
    budgets: dict[str, BudgetSettings] = _setting({}, MODEL)
    """Budgets of other APIs by name, for `context.reserve`, each with its own variables (below)."""
    daily_usd: Decimal | None = _setting(None, MODEL, unit="USD", gt=0)
    """Spending limit for models per day (UTC, by list price). Beyond it gateways refuse new jobs with
    `SPEND_LIMIT` until midnight; running jobs finish. Unset: no limit."""
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", LOG)
    """Minimum level of log messages that are written."""
    log_format: Literal["auto", "json", "console"] = _setting("auto", LOG)
    """`auto` writes JSON lines unless standard error is a terminal."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic names what it passes
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Reads only the environment: strips blanks and quotes around values, skips Kubernetes' variables."""
        source = EnvSettingsSource(settings_cls)
        foreign = {name.lower() for name in of_services(os.environ)}
        source.env_vars = {
            name: remote.clean(text or "") for name, text in source.env_vars.items() if name not in foreign
        }
        return init_settings, source

    @model_validator(mode="before")
    @classmethod
    def _as_in_0_1(cls, given: dict[str, Any]) -> dict[str, Any]:
        life = given.get("job_deadline")
        return given if life is None else {"max_wait": life, "timeout": life} | given

    @property
    def pipeline_imports(self) -> tuple[str, ...]:
        return entries(self.pipelines)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        return entries(self.cors_origins)

    @property
    def takes_image_urls(self) -> bool:
        """Returns whether clients may give an `http(s)` URL of a picture."""
        if self.image_urls != "auto":
            return self.image_urls == "on"
        urls = [self.openai_base_url, *(provider.base_url for provider in self.providers.values())]
        return all(url is None or re.match(r"https://api\.openai\.com(/|$)", url) for url in urls)

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        return entries(self.hosts)

    @property
    def metrics_port(self) -> int:
        """Returns the port of a gateway's metrics; 0: any free port."""
        if self.probes_port is not None:
            return self.probes_port
        return self.port + PROBES_OFFSET if self.port else 0

    @property
    def remotes(self) -> dict[str, ProviderSettings]:
        """Returns the providers that are called over the network, by name, in order of preference."""
        if self.openai_api_key is None:
            return self.providers
        own = ProviderSettings(
            api_key=self.openai_api_key,
            base_url=self.openai_base_url,
            model=self.openai_model,
            rpm=self.rpm,
            tpm=self.tpm,
            counting=self.counting,
            concurrency=self.concurrency,
        )
        return {"openai": own, **self.providers}

    @field_validator("providers")
    @classmethod
    def _named(cls, providers: dict[str, ProviderSettings]) -> dict[str, ProviderSettings]:
        for name in providers:
            if not re.fullmatch(r"[a-z][a-z0-9]*", name) or name in ("openai", "local"):
                raise ValueError(f"{name!r} cannot be a provider's name: use a-z, 0-9; not openai, local")
        return providers

    @field_validator("budgets")
    @classmethod
    def _apart(cls, budgets: dict[str, BudgetSettings], info: ValidationInfo) -> dict[str, BudgetSettings]:
        taken = {"openai", "local", *info.data.get("providers", {})}
        for name in budgets:
            if not re.fullmatch(r"[a-z][a-z0-9]*", name) or name in taken:
                raise ValueError(f"{name!r} cannot be a budget's name: use a-z, 0-9; no provider's name")
        return budgets

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if problems := conflicts(self):
            raise ValueError("\n".join(problems))
        return self


def conflicts(settings: Settings) -> list[str]:
    """Returns pairs of settings that break a promise together, each as a sentence with the remedy."""
    rules = (
        (
            settings.call_timeout < settings.drain_grace,
            f"ECO2_DRAIN_GRACE ({settings.drain_grace:g} s) must be longer than ECO2_CALL_TIMEOUT "
            f"({settings.call_timeout:g} s): a deploy would interrupt a call in flight, which is then paid "
            "for twice.",
        ),
        (
            settings.call_timeout < settings.timeout,
            f"ECO2_TIMEOUT ({settings.timeout:g} s) must be longer than ECO2_CALL_TIMEOUT "
            f"({settings.call_timeout:g} s): a job could not wait for one slow call.",
        ),
        (
            settings.holder_timeout < settings.timeout,
            f"ECO2_TIMEOUT ({settings.timeout:g} s) must be longer than ECO2_HOLDER_TIMEOUT "
            f"({settings.holder_timeout:g} s): no job would survive the crash of its worker.",
        ),
        (
            settings.max_upload_mb <= settings.upload_room_mb,
            f"ECO2_UPLOAD_ROOM_MB ({settings.upload_room_mb:g} MB) must be at least ECO2_MAX_UPLOAD_MB "
            f"({settings.max_upload_mb:g} MB): the largest request would always be refused.",
        ),
        (
            settings.metrics_port <= 65_535,
            f"ECO2_PROBES_PORT must be set with ECO2_PORT {settings.port}: the default, 1000 above it, is "
            "no port.",
        ),
        (
            max(settings.max_wait, settings.batch_max_wait or 0) + settings.timeout
            <= settings.retention_hours * 3600,
            f"ECO2_RETENTION_HOURS ({settings.retention_hours:g} h) must be at least ECO2_MAX_WAIT "
            f"({settings.max_wait:g} s), or ECO2_BATCH_MAX_WAIT ({settings.batch_max_wait or 0:g} s), and "
            f"ECO2_TIMEOUT ({settings.timeout:g} s) together: the journal would delete what jobs in work "
            "have paid for.",
        ),
        (
            settings.port == 0 or settings.metrics_port != settings.port,
            f"ECO2_PROBES_PORT must differ from ECO2_PORT ({settings.port}): clients must not read metrics.",
        ),
        (
            4 * settings.view_minutes <= settings.retention_hours * 60,
            f"ECO2_RETENTION_HOURS ({settings.retention_hours:g} h) must be at least 4 × ECO2_VIEW_MINUTES "
            f"({settings.view_minutes:g} min): the journal would delete jobs whose keys still count.",
        ),
    )
    return [problem for holds, problem in rules if not holds]


def deprecations(settings: Settings) -> list[str]:
    """Returns the settings that have new names, each as a sentence with these."""
    if settings.job_deadline is None:
        return []
    return [
        "ECO2_JOB_DEADLINE is the name of release 0.1: set ECO2_MAX_WAIT, the time until a job's first call "
        f"({settings.max_wait:g} s now), and ECO2_TIMEOUT, the time of its work ({settings.timeout:g} s now)."
    ]


def warnings(settings: Settings) -> list[str]:
    """Returns settings that leave budget unused or may pay twice, each as a sentence with the remedy."""
    from eco2.stages import SIZE

    sizing = size_for_scans(settings.rpm, settings.tpm)
    jobs = settings.prefetch * len(settings.pipeline_imports)
    slots = min(settings.concurrency, jobs)
    calls = sum(remote.concurrency for remote in settings.remotes.values())
    per_job = settings.rpm * settings.timeout / 60
    rules = (
        (
            per_job >= MIN_CALLS,
            f"ECO2_RPM ({settings.rpm}) allows {per_job:.0f} calls within ECO2_TIMEOUT "
            f"({settings.timeout:g} s): one scan needs two. Raise one of them.",
        ),
        (
            slots >= settings.concurrency,
            f"ECO2_PREFETCH ({settings.prefetch} jobs) is less than ECO2_CONCURRENCY "
            f"({settings.concurrency} calls), so slots stay unused: raise it, or unset both.",
        ),
        (
            len(settings.remotes) < 2 or jobs >= calls,
            f"ECO2_PREFETCH ({settings.prefetch} jobs) is less than the slots of all providers together "
            f"({calls} calls): raise it. Its default is computed from ECO2_RPM and ECO2_TPM alone.",
        ),
        (
            slots >= min(sizing.calls_in_flight, WORKER_CALLS),
            f"One worker makes at most {slots} calls at once, and ECO2_RPM and ECO2_TPM allow "
            f"{sizing.calls_in_flight:.0f}: run at least {math.ceil(sizing.calls_in_flight / slots)} "
            "workers, or unset ECO2_PREFETCH and ECO2_CONCURRENCY.",
        ),
        (
            settings.tpm >= SIZE.tokens,
            f"ECO2_TPM ({settings.tpm}) is less than the {SIZE.tokens:g} tokens of one scan: each takes "
            "more than a minute's budget. Raise it.",
        ),
        (
            settings.holder_timeout >= settings.publish_timeout + RECONNECT_MARGIN,
            f"ECO2_HOLDER_TIMEOUT ({settings.holder_timeout:g} s) is shorter than the time in which a "
            f"worker notices a lost connection and reconnects (ECO2_PUBLISH_TIMEOUT + {RECONNECT_MARGIN:g} "
            "s): others would take its jobs over, and its calls in flight would be paid for twice. Raise "
            "it.",
        ),
    )
    return [*deprecations(settings), *(warning for holds, warning in rules if not holds)]
