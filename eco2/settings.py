"""Every setting of Eco² in one frozen class: what there is, what it means, and what contradicts what.

Each default works as it stands. `eco2/environment.py` reads them, for the command line only.
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

FIRST = "The eight to tune first"
RUN = "Jobs and the broker"
HTTP = "HTTP"
MODEL = "Models"
MORE = "Further providers"
LOG = "Logs"
MAX_PREFIX = 100
"""Characters; with a pipeline's name of 64 the longest queue name stays below AMQP's 255 bytes."""
MAX_RPM, MAX_TPM = 1_000_000, 10_000_000_000
"""Above what any provider allows: more is a slip, and sizes would follow from it."""
DAY = 86_400
MAX_CONCURRENCY = 100_000
FEW_CALLS = 3
"""Calls within the life of one job: one more than a scan makes."""
COME_BACK = 6.5
"""Seconds beyond the time-out of a publish until a lost connection is noticed and opened again, at the most
(`eco2/broker/rabbitmq/probe.py`)."""
ABOVE_PORT = 1000
"""How far a gateway's metrics lie above its port where nothing else is set."""
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
        raise ValueError(f"must have at most {MAX_PREFIX} characters: queue names begin with it")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)*", prefix):
        raise ValueError("must be lower-case letters, digits and dashes, in words separated by dots")
    return prefix


def _pipelines(imports: str) -> str:
    for entry in _entries(imports) or ("",):
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", entry):
            raise ValueError(f"{entry!r} is no import string: write package.module:name, separated by commas")
    return imports


def _origins(origins: str) -> str:
    for origin in _entries(origins):
        if not re.fullmatch(r"https?://[^/*\s]+", origin):
            raise ValueError(
                f"{origin!r} is no exact origin: write https://app.example, no path, no wildcard"
            )
    return origins


def _hosts(hosts: str) -> str:
    for host in _entries(hosts):
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
    """0 becomes what the budget asks for. Where that is wrong itself, it is what the person hears of."""
    if value or not info.data.keys() >= {"rpm", "tpm"}:
        return value
    sizing = size_for_scans(info.data["rpm"], info.data["tpm"])
    return sizing.prefetch if info.field_name == "prefetch" else sizing.concurrency


def _entries(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _about(group: str, unit: str = "", computed: bool = False) -> dict[str, Any]:
    return {"group": group, "unit": unit, "computed": computed}


Counting = Literal["request", "input", "usage"]


class ProviderSettings(BaseModel):
    """One provider more: a field `rpm` of a provider GEMINI is `ECO2_PROVIDERS__GEMINI__RPM`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    api_key: ApiKey = Field(description="Its key.", json_schema_extra=_about(MORE))
    base_url: BaseUrl | None = Field(
        None, description="Where it speaks OpenAI's protocol. Unset: OpenAI.", json_schema_extra=_about(MORE)
    )
    model: ModelName = Field(description="Model that is asked there.", json_schema_extra=_about(MORE))
    rpm: int = Field(
        RPM,
        ge=1,
        le=MAX_RPM,
        description="Requests a minute that it allows.",
        json_schema_extra=_about(MORE, "requests/min"),
    )
    tpm: int = Field(
        TPM,
        ge=1,
        le=MAX_TPM,
        description="Tokens a minute that it allows.",
        json_schema_extra=_about(MORE, "tokens/min"),
    )
    counting: Counting = Field(
        "request",
        description="What it counts of a call's tokens; as `ECO2_COUNTING`.",
        json_schema_extra=_about(MORE),
    )
    concurrency: Annotated[int, AfterValidator(_by_budget)] = Field(
        0,
        ge=0,
        le=MAX_CONCURRENCY,
        description="Calls in flight at it, per worker. Unset or 0: what its limits ask for.",
        json_schema_extra=_about(MORE, "calls", computed=True),
    )


class Settings(BaseSettings):
    """A field `prefetch` is the variable `ECO2_PREFETCH`; an empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix="ECO2_",
        env_ignore_empty=True,
        env_nested_delimiter="__",
        frozen=True,
        populate_by_name=True,
        extra="forbid",
        allow_inf_nan=False,
    )

    amqp_url: Annotated[str, AfterValidator(_amqp_url)] | None = Field(
        None,
        repr=False,
        description="RabbitMQ's URL; the hosts of a cluster are separated by commas, and tried in turn. What "
        "means something in a URL is escaped in a password: `%2F` for `/`. Without it `eco2 serve` and "
        "`eco2 demo` run on the embedded broker, in memory: jobs end with the process.",
        json_schema_extra=_about(FIRST),
    )
    prefix: Annotated[str, AfterValidator(_prefix)] = Field(
        "eco2",
        description="First part of the name of every queue, stream and exchange. Two installations on one "
        "RabbitMQ need two prefixes.",
        json_schema_extra=_about(FIRST),
    )
    pipelines: Annotated[str, AfterValidator(_pipelines)] = Field(
        "eco2.stages:scan",
        description="Import strings of the pipelines to serve, separated by commas.",
        json_schema_extra=_about(FIRST),
    )
    rpm: int = Field(
        RPM,
        ge=1,
        le=MAX_RPM,
        description="Requests a minute that the provider allows. `eco2 size` says what that needs.",
        json_schema_extra=_about(FIRST, "requests/min"),
    )
    tpm: int = Field(
        TPM,
        ge=1,
        le=MAX_TPM,
        description="Tokens a minute that the provider allows.",
        json_schema_extra=_about(FIRST, "tokens/min"),
    )
    job_deadline: float = Field(
        180,
        gt=0,
        le=7 * DAY,
        description="Life of a job from its acceptance. A job past it ends as failed with `DEADLINE`.",
        json_schema_extra=_about(FIRST, "s"),
    )
    drain_grace: float = Field(
        70,
        gt=0,
        le=DAY,
        description="Time that a stopping worker gives the calls in flight. Give the process 20 s more "
        "before it is killed (terminationGracePeriodSeconds, stop_grace_period).",
        json_schema_extra=_about(FIRST, "s"),
    )
    retention_hours: float = Field(
        72,
        gt=0,
        le=87_600,
        description="Age at which the journal drops events; results can be read that long.",
        json_schema_extra=_about(FIRST, "h"),
    )
    prefetch: Annotated[int, AfterValidator(_by_budget)] = Field(
        0,
        ge=0,
        le=65_535,
        description="Jobs of one pipeline that a worker holds at once. Unset or 0: what `ECO2_RPM` and "
        "`ECO2_TPM` ask for (`docs/sizing.md`).",
        json_schema_extra=_about(RUN, "jobs", computed=True),
    )
    concurrency: Annotated[int, AfterValidator(_by_budget)] = Field(
        0,
        ge=0,
        le=MAX_CONCURRENCY,
        description="Model calls in flight per worker. Unset or 0: as above. Lower it where a worker's "
        "memory or the provider's connections bind before its rate limit does.",
        json_schema_extra=_about(RUN, "calls", computed=True),
    )
    call_timeout: float = Field(
        60, gt=0, le=DAY, description="Longest time of one model call.", json_schema_extra=_about(RUN, "s")
    )
    view_minutes: float = Field(
        VIEW_MINUTES,
        gt=0,
        le=10_080,
        description="How far back each process keeps the journal folded in memory; also the life of "
        "idempotency keys.",
        json_schema_extra=_about(RUN, "min"),
    )
    holder_timeout: float = Field(
        15,
        ge=1,
        le=3600,
        description="Silence of a worker after which others take its jobs over. Above what a worker needs to "
        "notice a lost connection and to come back, or what it has in flight is paid for twice.",
        json_schema_extra=_about(RUN, "s"),
    )
    heartbeat: int = Field(
        10,
        ge=1,
        le=60,
        description="AMQP heartbeat. A dead peer is noticed after two to three of them.",
        json_schema_extra=_about(RUN, "s"),
    )
    publish_timeout: float = Field(
        5,
        gt=0,
        le=300,
        description="Longest wait for the broker to confirm a publish before it is sent again.",
        json_schema_extra=_about(RUN, "s"),
    )
    host: Annotated[str, AfterValidator(_host)] = Field(
        "127.0.0.1",
        description="Address that the gateway listens on; 0.0.0.0 in a container.",
        json_schema_extra=_about(HTTP),
    )
    port: int = Field(
        8000,
        ge=0,
        le=65_535,
        description="Port of the gateway; 0 takes a free one.",
        json_schema_extra=_about(HTTP),
    )
    hosts: Annotated[str, AfterValidator(_hosts)] = Field(
        "",
        description="Names that requests may be for (their `Host`), separated by commas; `*.example` is any "
        "below it. Unset: on a loopback address, the names of loopback; else any.",
        json_schema_extra=_about(HTTP),
    )
    probes_host: Annotated[str, AfterValidator(_host)] = Field(
        "127.0.0.1",
        description="Address of a gateway's health and metrics; 0.0.0.0 in a container.",
        json_schema_extra=_about(HTTP),
    )
    probes_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="Port of a gateway's (or `eco2 serve`'s) health and metrics; keep it from clients. "
        "Unset: 1000 above `ECO2_PORT` (9000). 0 takes a free one.",
        json_schema_extra=_about(HTTP),
    )
    worker_host: Annotated[str, AfterValidator(_host)] = Field(
        "127.0.0.1",
        description="Address of the worker's health and metrics; 0.0.0.0 in a container.",
        json_schema_extra=_about(HTTP),
    )
    worker_port: int = Field(
        8001,
        ge=0,
        le=65_535,
        description="Port of the worker's health and metrics; 0 takes a free one.",
        json_schema_extra=_about(HTTP),
    )
    auth: Literal["none", "header"] = Field(
        "none",
        description="Who owns a job. `none`: whoever knows its id may read it. `header`: the user that a "
        "trusted proxy names in `X-User-ID`; that proxy must drop the header where clients send it.",
        json_schema_extra=_about(HTTP),
    )
    cors_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "",
        description="Exact origins whose pages may call the gateway with credentials, separated by commas.",
        json_schema_extra=_about(HTTP),
    )
    sse_comment: float = Field(
        4,
        ge=1,
        le=40,
        description="A comment line this often keeps an idle event stream open: read time-outs of HTTP "
        "clients start at 5 s (httpx) and 10 s (OkHttp), those of proxies at 60 s; `eco2.client`'s is 45 s.",
        json_schema_extra=_about(HTTP, "s"),
    )
    sse_retry: float = Field(
        2,
        gt=0,
        le=3600,
        description="Pause after which a client whose event stream broke connects again.",
        json_schema_extra=_about(HTTP, "s"),
    )
    sse_done_message: bool = Field(
        True,
        description="Under `/api/v1`, an unnamed message with the status `completed` follows a `done` that "
        "failed or was cancelled: the existing Eco² app then shows its error page at once, not after two "
        "minutes. Turn it off where clients of that prefix read unnamed messages.",
        json_schema_extra=_about(HTTP),
    )
    compat: bool = Field(
        False,
        description="Answer as the predecessor's gateway did, too, for the first of `ECO2_PIPELINES`: its "
        "paths, and 200 for a new job (`docs/http.md`). For its load scripts and clients; new ones do not "
        "need it.",
        json_schema_extra=_about(HTTP),
    )
    max_upload_mb: float = Field(
        10,
        gt=0,
        le=1000,
        description="Largest request body that is read.",
        json_schema_extra=_about(HTTP, "MB"),
    )
    image_urls: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether a client may name its picture by an `http(s)` URL, which the provider fetches. "
        "`auto`: only where every provider is OpenAI, which fetches from its own network; one at a URL of "
        "yours (`OPENAI_BASE_URL`, `ECO2_PROVIDERS__NAME__BASE_URL`) might fetch from inside your network.",
        json_schema_extra=_about(HTTP),
    )
    upload_room_mb: float = Field(
        64,
        gt=0,
        description="Request bodies that a gateway holds at once, all together. Further ones are refused "
        "with 429. Its memory limit must have room for twice that.",
        json_schema_extra=_about(HTTP, "MB"),
    )
    max_connections: int = Field(
        4_000,
        ge=1,
        description="Connections that a gateway serves at once. Further ones are answered 503.",
        json_schema_extra=_about(HTTP, "connections"),
    )
    streams_per_job: int = Field(
        10,
        ge=0,
        description="Event streams of one job that a gateway keeps open at once; 0: any number.",
        json_schema_extra=_about(HTTP, "streams"),
    )
    streams_per_owner: int = Field(
        20,
        ge=0,
        description="Event streams of one owner that a gateway keeps open at once; 0: any number. It counts "
        "only where `ECO2_AUTH` names owners: many clients may share one address.",
        json_schema_extra=_about(HTTP, "streams"),
    )
    default_model: ModelName | None = Field(
        None,
        description="Model of a job that names none. Unset: `ECO2_OPENAI_MODEL` where a key is set, "
        "else `local`.",
        json_schema_extra=_about(MODEL),
    )
    openai_model: ModelName = Field(
        "gpt-5.1",
        description="Model that is asked at OpenAI or at the compatible provider.",
        json_schema_extra=_about(MODEL),
    )
    openai_api_key: ApiKey | None = Field(
        None,
        validation_alias="OPENAI_API_KEY",
        description="Key of the provider. Without it only the local model is offered.",
        json_schema_extra=_about(MODEL),
    )
    openai_base_url: BaseUrl | None = Field(
        None,
        validation_alias="OPENAI_BASE_URL",
        description="Another provider that speaks OpenAI's protocol. Unset: OpenAI.",
        json_schema_extra=_about(MODEL),
    )
    counting: Counting = Field(
        "request",
        description="What the provider counts of a call's tokens: `request`, the greater of its prompt and "
        "its `max_completion_tokens` (OpenAI); `input`, the prompt (Gemini); `usage`, prompt and answer.",
        json_schema_extra=_about(MODEL),
    )
    providers: dict[str, ProviderSettings] = Field(
        default={},
        description="Further providers by name, each with variables of its own (below). A job that names no "
        "model goes to the one with the shortest expected wait.",
        json_schema_extra=_about(MODEL),
    )
    daily_usd: Decimal | None = Field(
        None,
        gt=0,
        description="What may be paid for models per day (UTC, by list price) before gateways refuse further "
        "jobs with `SPEND_LIMIT` until midnight; those in flight finish. Unset: no limit.",
        json_schema_extra=_about(MODEL, "USD"),
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least important level that is written.", json_schema_extra=_about(LOG)
    )
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="`auto` writes JSON lines unless standard error is a terminal.",
        json_schema_extra=_about(LOG),
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # pydantic names what it passes
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Reads the environment alone, without blanks and quotes around values and without foreign names."""
        source = EnvSettingsSource(settings_cls)
        foreign = {name.lower() for name in of_services(os.environ)}
        source.env_vars = {
            name: remote.clean(text or "") for name, text in source.env_vars.items() if name not in foreign
        }
        return init_settings, source

    @property
    def pipeline_imports(self) -> tuple[str, ...]:
        return _entries(self.pipelines)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        return _entries(self.cors_origins)

    @property
    def takes_image_urls(self) -> bool:
        """What `image_urls` comes to here."""
        if self.image_urls != "auto":
            return self.image_urls == "on"
        urls = [self.openai_base_url, *(provider.base_url for provider in self.providers.values())]
        return all(url is None or re.match(r"https://api\.openai\.com(/|$)", url) for url in urls)

    @property
    def allowed_hosts(self) -> tuple[str, ...]:
        return _entries(self.hosts)

    @property
    def metrics_port(self) -> int:
        """Of a gateway; 0: a free one."""
        if self.probes_port is not None:
            return self.probes_port
        return self.port + ABOVE_PORT if self.port else 0

    @property
    def remotes(self) -> dict[str, ProviderSettings]:
        """The providers that are called over the network, by name, in order of preference."""
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

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if problems := disagreements(self):
            raise ValueError("\n".join(problems))
        return self


def disagreements(settings: Settings) -> list[str]:
    """Pairs of settings that break a promise together, each as a sentence that says what to change."""
    view_seconds = settings.view_minutes * 60
    rules = (
        (
            settings.call_timeout < settings.drain_grace,
            f"ECO2_DRAIN_GRACE ({settings.drain_grace:g} s) must be longer than ECO2_CALL_TIMEOUT "
            f"({settings.call_timeout:g} s): a deploy would cut off, and pay twice, a call in flight.",
        ),
        (
            settings.call_timeout < settings.job_deadline,
            f"ECO2_JOB_DEADLINE ({settings.job_deadline:g} s) must be longer than ECO2_CALL_TIMEOUT "
            f"({settings.call_timeout:g} s): a job could not wait for one slow call.",
        ),
        (
            settings.holder_timeout < settings.job_deadline,
            f"ECO2_JOB_DEADLINE ({settings.job_deadline:g} s) must be longer than ECO2_HOLDER_TIMEOUT "
            f"({settings.holder_timeout:g} s): no job would outlive the crash of its worker.",
        ),
        (
            settings.job_deadline <= view_seconds,
            f"ECO2_VIEW_MINUTES ({settings.view_minutes:g} min) must cover ECO2_JOB_DEADLINE "
            f"({settings.job_deadline:g} s): a running job would leave the view.",
        ),
        (
            settings.max_upload_mb <= settings.upload_room_mb,
            f"ECO2_UPLOAD_ROOM_MB ({settings.upload_room_mb:g} MB) must be at least ECO2_MAX_UPLOAD_MB "
            f"({settings.max_upload_mb:g} MB): the largest request would never be taken.",
        ),
        (
            settings.metrics_port <= 65_535,
            f"ECO2_PROBES_PORT must be set with ECO2_PORT {settings.port}: 1000 above it is no port.",
        ),
        (
            settings.port == 0 or settings.metrics_port != settings.port,
            f"ECO2_PROBES_PORT must differ from ECO2_PORT ({settings.port}): metrics are not for clients.",
        ),
        (
            4 * view_seconds <= settings.retention_hours * 3600,
            f"ECO2_RETENTION_HOURS ({settings.retention_hours:g} h) must be at least 4 × ECO2_VIEW_MINUTES "
            f"({settings.view_minutes:g} min): the journal would drop what the view still needs.",
        ),
    )
    return [problem for holds, problem in rules if not holds]


def doubts(settings: Settings) -> list[str]:
    """What works, and leaves budget unused or pays twice: each as a sentence that says what to change."""
    from eco2.stages import SIZE

    sizing = size_for_scans(settings.rpm, settings.tpm)
    jobs = settings.prefetch * len(settings.pipeline_imports)
    slots = min(settings.concurrency, jobs)
    calls = sum(remote.concurrency for remote in settings.remotes.values())
    per_job = settings.rpm * settings.job_deadline / 60
    rules = (
        (
            per_job >= FEW_CALLS,
            f"ECO2_RPM ({settings.rpm}) allows {per_job:.0f} calls within ECO2_JOB_DEADLINE "
            f"({settings.job_deadline:g} s): one scan needs two. Raise one of them.",
        ),
        (
            slots >= settings.concurrency,
            f"ECO2_PREFETCH ({settings.prefetch} jobs) holds fewer jobs than ECO2_CONCURRENCY "
            f"({settings.concurrency} calls) has slots for: raise it, or unset both.",
        ),
        (
            len(settings.remotes) < 2 or jobs >= calls,
            f"ECO2_PREFETCH ({settings.prefetch} jobs) holds fewer jobs than all providers together have "
            f"slots for ({calls} calls): raise it. It follows from ECO2_RPM and ECO2_TPM alone.",
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
            settings.holder_timeout >= settings.publish_timeout + COME_BACK,
            f"ECO2_HOLDER_TIMEOUT ({settings.holder_timeout:g} s) is shorter than a worker may take to "
            f"notice a lost connection and to come back (ECO2_PUBLISH_TIMEOUT and {COME_BACK:g} s): others "
            "take its jobs over, and what it has in flight is paid for twice. Raise it.",
        ),
    )
    return [doubt for holds, doubt in rules if not holds]
