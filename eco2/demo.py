"""A scan from the command line: at a gateway that runs somewhere, or at one that this process starts.

The stages are shown live, then the result. Text of models and clients is shown as text (`eco2/terminal.py`).
A verification is such a scan with a provider's key, whose cost is bounded before it begins.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from eco2 import assembly, service
from eco2.client import Client, ClientEvent, ClientJob
from eco2.errors import ConfigurationError
from eco2.job import JSON
from eco2.llm.prices import PRICES, price
from eco2.models import model_names
from eco2.operator.cost import stage_cost, total
from eco2.pipeline import NEVER, Upload
from eco2.settings import Settings
from eco2.stages import scan
from eco2.terminal import one_line, visible

CLIENT_TIMEOUT = 10.0
"""Seconds without an answer after which a scan from the command line gives up."""
MARKS = {"started": "…", "completed": "[green]✓[/]", "failed": "[red]✗[/]", "cancelled": "[yellow]–[/]"}

MAX_USD = Decimal("0.10")
"""The most that a verification may cost."""
MAX_PAID_CALLS = 9
"""Of one scan: the first call, its repair and the answer, each sent three times since it broke off."""
MAX_CALL_TOKENS = (2500, 400)
"""Of one call: the prompt, with the bundled photo (1,425 were counted), and the answer, which is cut off."""

verification = replace(scan, stages=tuple(replace(stage, retry=NEVER) for stage in scan.stages))
"""The scan, whose stages are not tried again."""


async def scan_photo(
    url: str, photo: Upload, question: str | None, model: str | None, *, as_json: bool = False
) -> JSON:
    """Scans a photo at the gateway `url`, shows the stages and the result, and returns that."""
    console = Console(stderr=as_json)
    fields = {"user_input": question, "model": model}
    console.print(
        f"Scanning {visible(escape(photo.filename))} ({len(photo.data) / 1000:.0f} kB)", highlight=False
    )
    async with Client(url, patience=CLIENT_TIMEOUT) as client:
        given = {field: value for field, value in fields.items() if value is not None}
        job = await client.submit("scan", given, files={"image": photo})
        result = await follow(client, job, console)
    if as_json:
        print(visible(json.dumps(result, ensure_ascii=False, indent=2)))  # noqa: T201  # the command's output
    return result


async def demo(settings: Settings, photo: Upload, once: bool) -> bool:
    """Serves here, scans a photo, and continues to serve unless `once`. True if the scan completed."""
    console = Console()
    stop = asyncio.Event()
    async with serve(settings, stop) as url:
        broker = "RabbitMQ" if settings.amqp_url else "the broker in memory"
        model = settings.default_model or ", ".join(model_names(settings))
        console.print(f"[bold]Eco²[/] serves at {url} on {broker}, with the model {model}", highlight=False)
        completed = (await scan_photo(url, photo, None, None)).get("status") == "completed"
        if not once:
            console.print(
                f"\nStill serving. Try in another terminal:\n"
                f"  eco2 scan your-photo.jpg --url {url}\n"
                f"  curl -F image=@your-photo.jpg {url}/scan\n"
                f"Ctrl-C stops.",
                highlight=False,
            )
            await stop.wait()
    return completed


async def verify_provider(settings: Settings, photo: Upload) -> bool:
    """Scans a photo once with a provider's key, and says what it cost. True if the scan completed.

    Raises `ConfigurationError` without a key, or if it could cost `MAX_USD` or more.
    """
    console = Console(highlight=False)
    model, most = bounded_model(settings)
    where = next(each.base_url for each in settings.remotes.values() if each.model == model)
    console.print(
        f"One scan with {safe(model)} at {safe(where or 'OpenAI')}, for at most {most:.2f} USD by list price."
    )
    own = {
        "amqp_url": None,
        "pipelines": "eco2.demo:verification",
        "default_model": model,
        "host": "127.0.0.1",
        "hosts": "",
        "port": 0,
        "probes_host": "127.0.0.1",
        "probes_port": 0,
        "auth": "none",
        "daily_usd": None,
    }
    async with serve(settings.model_copy(update=own), asyncio.Event()) as url:
        began = time.monotonic()
        result = await scan_photo(url, photo, None, None)
        seconds = time.monotonic() - began
    cost = total(stage_cost(used) for used in object_at(result, "usage").values())
    if result.get("status") == "completed":
        console.print(f"The provider works. The scan took {seconds:.1f} s, and cost {cost}.")
        return True
    console.print(
        f"The provider does not work with these settings: the warnings above say why. It cost {cost}. "
        "Mend the key or the model, and run it again."
    )
    return False


def bounded_model(settings: Settings) -> tuple[str, Decimal]:
    """Returns the model to verify, and the most USD that a scan with it can cost.

    Raises `ConfigurationError` if there is none.
    """
    models = [remote.model for remote in settings.remotes.values() if not remote.embeddings]
    if not models:
        raise ConfigurationError(
            "there is no key to verify: set OPENAI_API_KEY (and OPENAI_BASE_URL for a compatible provider), "
            f"and run it again. It makes one scan, which costs less than {MAX_USD} USD"
        )
    model = settings.default_model if settings.default_model in models else models[0]
    known, (prompt, answer) = price(model), MAX_CALL_TOKENS
    most = MAX_PAID_CALLS * known.cost(prompt, 0, answer) if known else MAX_USD
    if most >= MAX_USD:
        raise ConfigurationError(
            f"a scan with {model} is not known to cost less than {MAX_USD} USD: set ECO2_OPENAI_MODEL to "
            f"one of {', '.join(PRICES)}"
        )
    return model, most


@asynccontextmanager
async def serve(settings: Settings, stop: asyncio.Event) -> AsyncIterator[str]:
    """Runs a gateway and a worker during the block; yields the gateway's URL. A signal sets `stop`."""
    service.stop_on_signals(stop)
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    listening = assembly.Listening(gateway=port.set_result)
    async with (
        assembly.process(settings, "serve", stop, listening) as components,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(service.run(components, stop))
        try:
            yield f"http://{settings.host}:{await port}"
        finally:
            stop.set()


async def follow(client: Client, job: ClientJob, console: Console) -> JSON:
    """Prints every event of the job as it comes, then the result; returns the result."""
    lines = EventPrinter(console)
    result: JSON = {}
    async for event in client.events(job):
        lines.show(event)
        if event.name == "done":
            result = event.result or {}
    print_result(result, console)
    return result


class EventPrinter:
    """Prints one line for each event; live text grows on a separate line."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._live = ""
        self._call: str | None = None

    def show(self, event: ClientEvent) -> None:
        """Prints the event."""
        if event.done is not None or (event.text is not None and self._live and event.call != self._call):
            return  # one text at a time: those of other branches come with the stage's output
        if event.text is not None:
            self._call = event.call
            if event.again and self._live:
                self._console.print()
                self._live = ""
            self._write(event.text)
            return
        if self._live:
            self._finish(event)
        elapsed = time.monotonic() - self._began
        if event.name == "retrying":
            self._console.print(
                f"[dim]{elapsed:7.2f} s[/]  … {safe(event.stage):<8}fails; try {event.attempt} "
                f"in {event.eta_seconds or 0:.0f} s",
                highlight=False,
            )
            return
        mark = MARKS.get(event.status or "", " ")
        self._console.print(
            f"[dim]{elapsed:7.2f} s[/]  {mark} {safe(event.name):<8}{safe(event.status or ''):<10}"
            f"[dim]{event.progress or 0:>4} %[/]",
            highlight=False,
        )

    def _write(self, text: str) -> None:
        self._console.print(
            "" if self._live else "  ", visible(text), sep="", end="", style="cyan", markup=False
        )
        self._live += text

    def _finish(self, event: ClientEvent) -> None:
        """Ends the line of live text; pieces that had not arrived are taken from the stage's output."""
        whole = (event.result or {}).get("text")
        if isinstance(whole, str) and whole.startswith(self._live):
            self._write(whole[len(self._live) :])
        self._console.print()
        self._live = ""


def print_result(result: JSON, console: Console) -> None:
    """Prints the thing, its steps, the answer and the reward; of a failed job the error."""
    answer = object_at(result, "pipeline_result", "final_answer")
    seen = object_at(result, "pipeline_result", "classification_result", "classification")
    error = object_at(result, "error")
    if error:
        console.print(
            Panel(
                f"{safe(error.get('code'))}: {safe(error.get('message'))}",
                title="failed",
                style="red",
            )
        )
        return
    names = [
        safe(seen[part]) for part in ("major_category", "middle_category", "minor_category") if seen.get(part)
    ]
    lines = ["[bold]Seen[/]     " + " › ".join(dict.fromkeys(names))]
    steps = object_at(answer, "disposal_steps").values()
    separate = [step for step in steps if step != answer.get("user_answer")]
    lines += ["", "[bold]Dispose[/]"] if separate else []
    lines += [f"  {number}. {safe(step)}" for number, step in enumerate(separate, 1)]
    missing = answer.get("insufficiencies")
    if isinstance(missing, list) and missing:
        lines += ["", "[bold]First[/]    " + "; ".join(map(safe, missing))]
    lines += ["", f"[bold]Answer[/]   {escape(visible(str(answer.get('user_answer'))))}"]
    reward = object_at(result, "reward")
    if reward:
        lines += [
            "",
            f"[bold]Reward[/]   {safe(reward.get('name'))}: {safe(reward.get('dialog'))}",
        ]
    usage = [used for used in object_at(result, "usage").values() if isinstance(used, dict)]
    models = ", ".join(dict.fromkeys(str(used.get("model")) for used in usage))
    lines += ["", f"[dim]Model    {safe(models)}[/]"]
    console.print(Panel("\n".join(lines), title="Eco² scan", expand=False), highlight=False)


def object_at(document: Mapping[str, object], *path: str) -> Mapping[str, object]:
    """Returns the object at `path`, or an empty one if there is none."""
    for name in path:
        inner = document.get(name)
        document = inner if isinstance(inner, dict) else {}
    return document


def safe(value: object) -> str:
    """Returns the value as one line without markup or control characters."""
    return escape(one_line(value))
