"""The command line: loads the settings, prints messages, and maps errors to exit codes.

Heavy modules are imported inside the commands that need them, so that `eco2 --help` is fast.
"""

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eco2 import __version__
from eco2.commands import bootstrap, dead, intake, jobs
from eco2.errors import ConfigurationError, Eco2Error, PermanentError, RetryableError
from eco2.sizetable import show_size

if TYPE_CHECKING:
    from eco2.broker.topology import Topology
    from eco2.settings import Settings

EXIT_CODES = """Exit codes: 0 success · 1 bug · 2 wrong usage or settings · 3 the job failed ·
4 the gateway or the broker does not answer · 5 the request was refused · 130 interrupted."""

app = typer.Typer(
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # also for every sub-command
)
Host = Annotated[str | None, typer.Option(help="Address to listen on; overrides the environment variable.")]
Port = Annotated[
    int | None,
    typer.Option(
        min=0, max=65_535, help="Port to listen on; overrides the environment variable. 0: any free port."
    ),
]
topology_app = typer.Typer(
    help="Show, check and create the queues and exchanges at the broker.", no_args_is_help=True
)
app.add_typer(topology_app, name="topology")
app.add_typer(jobs.app, name="jobs")
app.add_typer(dead.app, name="dead")
app.command("size")(show_size)


def main() -> None:
    """The `eco2` program."""
    sys.path.insert(0, str(Path.cwd()))  # ECO2_PIPELINES may name a module in the current folder
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except (Eco2Error, BaseExceptionGroup) as error:
        leaf = bootstrap.first_error(error)
        if not isinstance(leaf, Eco2Error):
            raise
        from eco2.terminal import visible  # it may quote a gateway or a broker

        typer.echo(f"eco2: {visible(str(leaf))}", err=True)
        sys.exit(exit_code(leaf))


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
    """Eco²: an asyncio task queue for LLM pipelines on RabbitMQ, with a waste scan as its first pipeline.

    Start here: `eco2 demo` scans a photo on this machine, without a key and without a broker.
    """


@app.command()
def demo(
    once: Annotated[
        bool, typer.Option("--once", help="Exit after the first scan; listen on any free port.")
    ] = False,
    photo: Annotated[Path | None, typer.Option(help="A photo to scan instead of the bundled one.")] = None,
    host: Host = None,
    port: Port = None,
) -> None:
    """Scan a photo on this machine, without a broker or a key, then keep the gateway running."""
    from eco2.client import read_upload
    from eco2.demo import demo as run_demo
    from eco2.stages import DEMO_PHOTO

    settings = bootstrap.settings("warning", host=host, port=0 if once and port is None else port)
    if not bootstrap.run(run_demo(settings, read_upload("image", photo or DEMO_PHOTO), once)):
        raise typer.Exit(3)


@app.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Run gateway and worker in one process; without ECO2_AMQP_URL with a broker in memory."""
    settings = bootstrap.settings(host=host, port=port)
    if settings.amqp_url is None:
        typer.echo(
            "ECO2_AMQP_URL is not set: the broker is in memory, and jobs are lost when this process ends.",
            err=True,
        )
    _process("serve", settings)


@app.command()
def gateway(host: Host = None, port: Port = None) -> None:
    """Run a gateway: accept jobs over HTTP and stream their events. Needs ECO2_AMQP_URL."""
    _process("gateway", bootstrap.settings(host=host, port=port))


@app.command()
def worker(host: Host = None, port: Port = None) -> None:
    """Run a worker: take jobs from the queue and run them. Needs ECO2_AMQP_URL.

    Host and port are those of its health checks and metrics.
    """
    _process("worker", bootstrap.settings(worker_host=host, worker_port=port))


@app.command()
def scan(
    photo: Annotated[
        Path, typer.Argument(help="A JPEG, PNG, WebP or GIF file.", exists=True, dir_okay=False)
    ],
    question: Annotated[str | None, typer.Option(help="A question about the photo.")] = None,
    url: Annotated[str, typer.Option(help="The gateway's URL.")] = "http://127.0.0.1:8000",
    model: Annotated[str | None, typer.Option(help="The model to use, one that the gateway offers.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print only the result, as JSON.")] = False,
) -> None:
    """Send a photo to a running gateway and show the stages as they happen."""
    from eco2.client import read_upload
    from eco2.demo import scan_photo

    result = bootstrap.run(scan_photo(url, read_upload("image", photo), question, model, as_json=json))
    if result.get("status") != "completed":
        raise typer.Exit(3)


@app.command("verify-provider")
def verify_provider() -> None:
    """Scan a bundled photo once with your provider's key, for less than $0.10, and say what it cost.

    Uses a gateway, a worker and a broker in this process, so nothing of a running installation is touched.
    """
    from eco2.client import read_upload
    from eco2.demo import verify_provider as verify
    from eco2.stages import DEMO_PHOTO

    if not bootstrap.run(verify(bootstrap.settings("warning"), read_upload("image", DEMO_PHOTO))):
        raise typer.Exit(3)


@topology_app.command("show")
def topology_show() -> None:
    """Print the queues and exchanges that this configuration needs."""
    from eco2.broker.topology import show

    typer.echo(show(_topology(bootstrap.settings())))


@topology_app.command("check")
def topology_check() -> None:
    """Check that the broker has what this configuration needs; exit code 2 if not."""
    from eco2 import brokers

    settings = bootstrap.settings()
    report = bootstrap.run(brokers.inspect(settings, _topology(settings)))
    typer.echo(f"The broker is {report.server}.")
    for line in (*report.cautions, *report.differences):
        typer.echo(line)
    if report.differences:
        raise typer.Exit(2)
    typer.echo("The broker has everything that this configuration needs.")


@topology_app.command("apply")
def topology_apply() -> None:
    """Create what is missing at the broker; nothing is changed or deleted."""
    from eco2 import brokers

    settings = bootstrap.settings()
    bootstrap.run(brokers.apply(settings, _topology(settings)))
    typer.echo("The broker has everything that this configuration needs.")


@app.command("fake-openai")
def fake_openai(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0: any free port.")] = 8090,
    rpm: Annotated[int, typer.Option(help="Limit of requests per minute; 0: none.")] = 500,
    tpm: Annotated[int, typer.Option(help="Limit of tokens per minute; 0: none.")] = 500_000,
    charge: Annotated[
        Literal["request", "input", "usage"],
        typer.Option(help="How a request counts against the token limit."),
    ] = "request",
    scale: Annotated[float, typer.Option(help="Factor for all latencies; 0: answer at once.")] = 1.0,
    chunks: Annotated[int, typer.Option(help="Number of chunks in a streamed answer.")] = 40,
    seed: Annotated[
        int, typer.Option(help="Seed: the same seed and job give the same latency and answer.")
    ] = 0,
    job_pattern: Annotated[
        str | None, typer.Option(help="Regular expression whose group is the job's id in a request's body.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="File for a line of JSON per call.")] = None,
) -> None:
    """Run a fake provider with OpenAI's limits, latencies and errors, for tests and benchmarks."""
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
            config, host, port, stop, lambda bound: _print_port("fake provider", host, bound, "/v1")
        )

    bootstrap.run(run())


@app.command("settings")
def show_settings(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md.")] = False,
) -> None:
    """Show all settings: value, default, unit and meaning."""
    from eco2 import environment

    if markdown:
        typer.echo(environment.markdown(), nl=False)
        return
    for line in environment.overview(bootstrap.settings()):
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
        def probes_listen(port: int) -> None:
            if role == "worker":
                _print_port("worker's health and metrics", settings.worker_host, port)
            else:  # not " on http://…": the first such line of a process names the clients' address
                typer.echo(f"gateway's health and metrics: http://{settings.probes_host}:{port}", err=True)

        stop, force = asyncio.Event(), asyncio.Event()
        service.stop_on_signals(stop, force)
        listening = assembly.Listening(
            gateway=lambda port: _print_port("gateway", settings.host, port),
            probes=probes_listen,
        )
        async with assembly.process(settings, role, stop, listening) as components:
            service.raise_open_files()
            service.freeze_gc()
            service.set_mmap_threshold()
            await service.run(components, stop, force)

    bootstrap.run(run())


def _print_port(what: str, host: str, port: int, path: str = "") -> None:
    typer.echo(f"{what} on http://{host}:{port}{path}", err=True)


def exit_code(error: Eco2Error) -> int:
    """Returns the exit code for an error."""
    match error:
        case ConfigurationError():
            return 2
        case RetryableError():
            return 4
        case PermanentError():
            return 5
        case _:
            return 1
