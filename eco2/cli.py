"""The command line: reads the settings, says what a person needs to know, and turns errors into exit codes.

Everything heavy is imported inside the command that needs it, so that `eco2 --help` answers at once.
"""

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eco2 import __version__
from eco2.commands import dead, intake, jobs
from eco2.commands.start import run as _run
from eco2.commands.start import settings as _settings
from eco2.errors import ConfigurationError, Eco2Error, PermanentError, RetryableError
from eco2.sizetable import show_size

if TYPE_CHECKING:
    from eco2.broker.topology import Topology
    from eco2.settings import Settings

EXIT_CODES = """Exit codes: 0 done · 1 a bug · 2 wrong usage or settings · 3 the job failed ·
4 gateway or broker did not answer · 5 the request was refused · 130 interrupted."""

app = typer.Typer(
    help="Eco²: a native asyncio task queue for LLM pipelines on RabbitMQ, and its waste scan.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command below, too
)
Host = Annotated[str | None, typer.Option(help="Address to listen on, in place of the variable.")]
Port = Annotated[
    int | None, typer.Option(min=0, max=65_535, help="Port, in place of the variable; 0 takes a free one.")
]
topology_app = typer.Typer(help="The queues and exchanges at the broker.", no_args_is_help=True)
app.add_typer(topology_app, name="topology")
app.add_typer(jobs.app, name="jobs")
app.add_typer(dead.app, name="dead")
app.command("size")(show_size)


def main() -> None:
    """The `eco2` program."""
    sys.path.insert(0, str(Path.cwd()))  # so that ECO2_PIPELINES finds a module beside you
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Eco2Error, BaseExceptionGroup) as error:
        leaf = _leaf(error)
        if not isinstance(leaf, Eco2Error):
            raise
        from eco2.terminal import visible  # a gateway's or a broker's words may be in it

        typer.echo(f"eco2: {visible(str(leaf))}", err=True)
        sys.exit(_code(leaf))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def program(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Eco²: a native asyncio task queue for LLM pipelines on RabbitMQ, and its waste scan."""


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Stop after the first scan; any free port.")] = False,
    photo: Annotated[Path | None, typer.Option(help="Your photo instead of the bundled one.")] = None,
    host: Host = None,
    port: Port = None,
) -> None:
    """Scan a real photo through all four stages here and now, then leave the gateway serving."""
    from eco2.demo import Photo
    from eco2.demo import demo as run_demo
    from eco2.stages import DEMO_PHOTO

    settings = _settings("warning", host=host, port=0 if once and port is None else port)
    if not _run(run_demo(settings, Photo.read(photo or DEMO_PHOTO), once)):
        raise typer.Exit(3)


@app.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Gateway and worker in one process; without ECO2_AMQP_URL on the broker in memory."""
    settings = _settings(host=host, port=port)
    if settings.amqp_url is None:
        typer.echo("No ECO2_AMQP_URL: the broker is in memory, and jobs end with this process.", err=True)
    _process("serve", settings)


@app.command()
def gateway(host: Host = None, port: Port = None) -> None:
    """Take requests and show events, for any number of clients. Needs ECO2_AMQP_URL."""
    _process("gateway", _settings(host=host, port=port))


@app.command()
def worker(host: Host = None, port: Port = None) -> None:
    """Run jobs from the queue. Needs ECO2_AMQP_URL. Host and port are those of its health and metrics."""
    _process("worker", _settings(worker_host=host, worker_port=port))


@app.command()
def scan(
    photo: Annotated[
        Path, typer.Argument(help="A JPEG, PNG, WebP or GIF file.", exists=True, dir_okay=False)
    ],
    question: Annotated[str | None, typer.Option(help="What you want to know about it.")] = None,
    url: Annotated[str, typer.Option(help="The gateway.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="A model that the gateway offers.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print only the result, as JSON.")] = False,
) -> None:
    """Scan a photo at a running gateway and show the stages as they happen."""
    from eco2.demo import Photo, scan_photo

    status = _run(scan_photo(url, Photo.read(photo), question, model, as_json=json))
    if status != "completed":
        raise typer.Exit(3)


@topology_app.command("show")
def topology_show() -> None:
    """Print what this configuration needs at the broker."""
    from eco2.broker.topology import show

    typer.echo(show(_topology(_settings())))


@topology_app.command("check")
def topology_check() -> None:
    """Compare the broker with what is needed; exit 2 if they differ."""
    from eco2 import brokers

    settings = _settings()
    found = _run(brokers.inspect(settings, _topology(settings)))
    typer.echo(f"The broker is {found.server}.")
    for line in (*found.cautions, *found.differences):
        typer.echo(line)
    if found.differences:
        raise typer.Exit(2)
    typer.echo("The broker has everything, as it should be.")


@topology_app.command("apply")
def topology_apply() -> None:
    """Make what is missing at the broker; nothing is ever deleted or changed."""
    from eco2 import brokers

    settings = _settings()
    _run(brokers.apply(settings, _topology(settings)))
    typer.echo("The broker has everything.")


@app.command("fake-openai")
def fake_openai(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8090,
    rpm: Annotated[int, typer.Option(help="Requests per minute; 0: no limit.")] = 500,
    tpm: Annotated[int, typer.Option(help="Tokens per minute; 0: no limit.")] = 500_000,
    charge: Annotated[
        Literal["request", "input", "usage"], typer.Option(help="What the token window counts.")
    ] = "request",
    scale: Annotated[float, typer.Option(help="Factor on all latencies; 0: none.")] = 1.0,
    chunks: Annotated[int, typer.Option(help="Pieces of a streamed answer.")] = 40,
    seed: Annotated[int, typer.Option(help="Same seed and job: same latency, same answer.")] = 0,
    job_pattern: Annotated[
        str | None, typer.Option(help="Expression whose group names the job in a request's body.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="JSON lines file for every call.")] = None,
) -> None:
    """A provider that imitates OpenAI's limits, latencies and faults; for tests and benchmarks only."""
    from eco2.fake.config import FakeConfig
    from eco2.service import stop_on_signals

    if importlib.util.find_spec("bpe_openai") is None:
        raise ConfigurationError("the fake provider needs a tokenizer: run pip install 'eco2[fake]'")
    from eco2.fake.server import serve as serve_fake

    config = FakeConfig(
        rpm=rpm or None,
        tpm=tpm or None,
        charge=charge,
        scale=scale,
        chunks=chunks,
        seed=seed,
        job_pattern=job_pattern,
        log_path=str(log) if log else None,
    )

    async def run() -> None:
        stop = asyncio.Event()
        stop_on_signals(stop)
        await serve_fake(
            config, host, port, stop, lambda bound: _say_port("fake provider", host, bound, "/v1")
        )

    _run(run())


@app.command("settings")
def show_settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="The table of docs/settings.md.")] = False,
) -> None:
    """Show every setting: its value here, its default, its unit and what it does."""
    from eco2 import environment

    if markdown:
        typer.echo(environment.markdown(), nl=False)
        return
    for line in environment.overview(_settings()):
        typer.echo(line)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


app.command()(intake.pause)
app.command()(intake.resume)


def _topology(settings: "Settings") -> "Topology":
    from eco2 import assembly, brokers

    return brokers.topology(settings, assembly.pipelines(settings))


def _process(role: Literal["gateway", "worker", "serve"], settings: "Settings") -> None:
    from eco2 import assembly, service

    async def run() -> None:
        stop, force = asyncio.Event(), asyncio.Event()
        service.stop_on_signals(stop, force)
        listening = assembly.Listening(
            gateway=lambda port: _say_port("gateway", settings.host, port),
            probes=lambda port: _say_probes(settings, role, port),
        )
        async with assembly.process(settings, role, stop, listening) as components:
            service.raise_open_files()
            service.spare_the_collector()
            service.return_large_pieces()
            await service.run(components, stop, force)

    _run(run())


def _say_port(what: str, host: str, port: int, path: str = "") -> None:
    typer.echo(f"{what} on http://{host}:{port}{path}", err=True)


def _say_probes(settings: "Settings", role: str, port: int) -> None:
    if role == "worker":
        _say_port("worker's health and metrics", settings.worker_host, port)
    else:  # not " on http://…": the first such line of a process names what clients use
        typer.echo(f"gateway's health and metrics: http://{settings.probes_host}:{port}", err=True)


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _code(error: Eco2Error) -> int:
    match error:
        case ConfigurationError():
            return 2
        case RetryableError():
            return 4
        case PermanentError():
            return 5
        case _:
            return 1
