"""The life of a process: start order, stop in reverse, failures, grace. Double and early stops."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from eco2 import assembly, cli
from eco2.broker.rabbitmq import Inspection
from eco2.broker.rabbitmq.connect import Server
from eco2.broker.topology import Topology
from eco2.calls.provider import Provider
from eco2.calls.reservation import Fence
from eco2.calls.router import Router
from eco2.consumers.context import Engine
from eco2.consumers.worker import Worker
from eco2.errors import BrokerUnavailable, ConfigurationError, Eco2Error, InvalidInput
from eco2.journal.view import View
from eco2.metrics import Metrics
from eco2.ports import Clock, Model
from eco2.service import Component, ComponentEnded, freeze_gc, run, stop_on_signals
from eco2.settings import BudgetSettings, Settings, size_for_scans, warnings
from eco2.testing.clock import virtual
from tests.support.world import PIPELINE


class Recorder:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def component(self, name: str, stopping: float = 0.0, grace: float = 10.0) -> Component:
        async def work(stop: asyncio.Event) -> None:
            self.lines.append(f"{name} starts")
            try:
                await stop.wait()
                await asyncio.sleep(stopping)
                self.lines.append(f"{name} ends")
            except asyncio.CancelledError:
                self.lines.append(f"{name} cancelled")
                raise

        return Component(name, work, grace)


@virtual
async def test_components_start_in_order_and_stop_in_reverse_one_after_the_other() -> None:
    recorder, stop = Recorder(), asyncio.Event()
    asyncio.get_running_loop().call_later(5, stop.set)
    await run([recorder.component(name, stopping=1.0) for name in "abc"], stop)
    assert recorder.lines == ["a starts", "b starts", "c starts", "c ends", "b ends", "a ends"]
    assert asyncio.get_running_loop().time() == pytest.approx(8)


@virtual
async def test_a_stop_that_came_before_the_start_is_obeyed() -> None:
    recorder, stop = Recorder(), asyncio.Event()
    stop.set()
    stop.set()
    await run([recorder.component("a"), recorder.component("b")], stop)
    assert recorder.lines[-2:] == ["b ends", "a ends"]


@virtual
async def test_whoever_outstays_its_grace_is_cancelled_and_the_others_stop_in_order() -> None:
    recorder, stop = Recorder(), asyncio.Event()
    asyncio.get_running_loop().call_later(1, stop.set)
    await run([recorder.component("a"), recorder.component("slow", stopping=60, grace=5)], stop)
    assert recorder.lines[-2:] == ["slow cancelled", "a ends"]
    assert asyncio.get_running_loop().time() == pytest.approx(6)


@virtual
async def test_a_component_that_fails_ends_the_process() -> None:
    recorder = Recorder()

    async def fail(stop: asyncio.Event) -> None:
        await asyncio.sleep(1)
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as raised:
        await run([recorder.component("a"), Component("bad", fail)], asyncio.Event())
    assert raised.group_contains(ZeroDivisionError)
    assert recorder.lines == ["a starts", "a cancelled"]


@virtual
async def test_a_component_that_ends_unasked_ends_the_process() -> None:
    async def give_up(stop: asyncio.Event) -> None:
        await asyncio.sleep(1)

    with pytest.raises(ExceptionGroup) as raised:
        await run([Component("quitter", give_up)], asyncio.Event())
    assert raised.group_contains(ComponentEnded, match="quitter")


@virtual
async def test_a_component_that_a_stray_cancellation_ends_ends_the_process() -> None:
    async def work(_: asyncio.Event) -> None:
        await asyncio.sleep(1)
        raise asyncio.CancelledError

    recorder = Recorder()
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(60):
            await run([Component("bad", work), recorder.component("good")], asyncio.Event())
    assert [type(error) for error in raised.value.exceptions] == [ComponentEnded]
    assert recorder.lines == ["good starts", "good cancelled"]


async def test_signals_set_the_stop_event() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        stop = asyncio.Event()
        stop_on_signals(stop)
        signal.raise_signal(number)
        async with asyncio.timeout(5):
            assert await stop.wait()
        asyncio.get_running_loop().remove_signal_handler(number)


async def test_only_a_second_signal_forces() -> None:
    stop, force = asyncio.Event(), asyncio.Event()
    stop_on_signals(stop, force)
    signal.raise_signal(signal.SIGTERM)
    async with asyncio.timeout(5):
        await stop.wait()
        assert not force.is_set()
        signal.raise_signal(signal.SIGTERM)
        await force.wait()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)


@virtual
async def test_force_ends_every_grace_at_once() -> None:
    recorder, stop, force = Recorder(), asyncio.Event(), asyncio.Event()

    async def work(stop: asyncio.Event) -> None:
        await asyncio.get_running_loop().create_future()

    async def later() -> None:
        stop.set()
        await asyncio.sleep(3)
        force.set()

    began = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        group.create_task(later())
        await run([recorder.component("a"), Component("slow", work, grace=500)], stop, force)
    assert asyncio.get_running_loop().time() - began == pytest.approx(3)
    assert recorder.lines[0] == "a starts"


@virtual
async def test_whoever_is_cancelled_may_tidy_up_before_the_next_stops() -> None:
    recorder, stop = Recorder(), asyncio.Event()

    async def work(stop: asyncio.Event) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(1)
            recorder.lines.append("slow has tidied up")

    stop.set()
    await run([recorder.component("a"), Component("slow", work, grace=5)], stop)
    assert recorder.lines == ["a starts", "slow has tidied up", "a ends"]


@pytest.fixture
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ECO2_", "OPENAI_")):
            monkeypatch.delenv(name)


async def components_of(settings: Settings, role: assembly.Role) -> dict[str, float]:
    """The components of a process in their order, with the seconds that each has to stop."""
    async with assembly.process(settings, role, asyncio.Event()) as components:
        return {component.name: component.grace for component in components}


@pytest.mark.usefixtures("_no_settings_around")
async def test_a_process_starts_first_what_the_others_need_to_the_end() -> None:
    url = "amqp://127.0.0.1:9"
    gateway = await components_of(Settings(amqp_url=url), "gateway")
    worker = await components_of(Settings(amqp_url=url), "worker")
    both = await components_of(Settings(), "serve")
    assert list(gateway) == [
        "loop watch",
        "broker",
        "presence",
        "journal",
        "snapshots",
        "probes",
        "deadlines",
        "gateway",
    ]
    assert list(worker) == [
        "loop watch",
        "broker",
        "presence",
        "journal",
        "snapshots",
        "probes",
        "live text",
        "holders",
        "worker",
        "sweep",
    ]
    assert list(both) == [
        "loop watch",
        "broker",
        "presence",
        "journal",
        "snapshots",
        "probes",
        "live text",
        "holders",
        "worker",
        "sweep",
        "gateway",
    ]


@pytest.mark.usefixtures("_no_settings_around")
async def test_a_worker_has_its_drain_grace_and_time_to_write_its_last_events() -> None:
    settings = Settings()
    assert (await components_of(settings, "serve"))["worker"] == settings.drain_grace + 10.0


@pytest.mark.usefixtures("_no_settings_around")
async def test_the_settings_of_a_worker_reach_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict[str, tuple[object, ...]]()

    class Spied(Worker):
        def __init__(self, *parts: Any, prefetch: int, grace: float) -> None:
            given["worker"] = (prefetch, grace)
            super().__init__(*parts, prefetch=prefetch, grace=grace)

    class SpiedRouter(Router):
        def __init__(
            self,
            providers: Sequence[Provider],
            fence: Fence,
            timeout: float,
            metrics: Metrics,
            default: str | None,
        ) -> None:
            given["router"] = (timeout, default)
            super().__init__(providers, fence, timeout, metrics, default)

    class SpiedProvider(Provider):
        def __init__(self, name: str, model: str, adapter: Model, concurrency: int, *rest: Any) -> None:
            given["provider"] = (name, model, concurrency)
            super().__init__(name, model, adapter, concurrency, *rest)

    class SpiedView(View):
        def __init__(self, window: float, clock: Clock, *, life: float, **rest: Any) -> None:
            given["view"] = (window, life)
            super().__init__(window, clock, life=life, **rest)

    monkeypatch.setattr("eco2.wiring.Worker", Spied)
    monkeypatch.setattr("eco2.wiring.Router", SpiedRouter)
    monkeypatch.setattr("eco2.calls.provider.Provider", SpiedProvider)
    monkeypatch.setattr("eco2.assembly.View", SpiedView)
    settings = Settings(
        prefetch=7,
        concurrency=5,
        call_timeout=31,
        drain_grace=41,
        view_minutes=13,
        max_wait=3600,
        batch_max_wait=4000,
    )
    await components_of(settings, "serve")
    assert given == {
        "worker": (7, 41),
        "router": (31, None),
        "provider": ("local", "local", 5),
        "view": (13 * 60, 4000 + 180 + 155),
    }


@pytest.mark.usefixtures("_no_settings_around")
@pytest.mark.parametrize("role", ["gateway", "worker", "serve"])
async def test_each_process_says_once_that_a_setting_has_new_names(
    role: assembly.Role, caplog: pytest.LogCaptureFixture
) -> None:
    url = None if role == "serve" else "amqp://127.0.0.1"
    await components_of(Settings(job_deadline=90, amqp_url=url), role)
    assert caplog.text.count("ECO2_MAX_WAIT") == 1


@pytest.mark.usefixtures("_no_settings_around")
async def test_without_settings_a_worker_gets_what_the_budget_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = dict[str, int]()

    class Spied(Worker):
        def __init__(self, *parts: Any, prefetch: int, grace: float) -> None:
            given["prefetch"] = prefetch
            super().__init__(*parts, prefetch=prefetch, grace=grace)

    monkeypatch.setattr("eco2.wiring.Worker", Spied)
    await components_of(Settings(rpm=100), "serve")
    assert given == {"prefetch": size_for_scans(100, 500_000).prefetch}


@pytest.mark.usefixtures("_no_settings_around")
async def test_each_worker_takes_part_in_the_budgets_of_other_apis(monkeypatch: pytest.MonkeyPatch) -> None:
    given = list[str]()

    def spied(*parts: Any) -> Engine:
        engine = Engine(*parts)
        given.extend(engine.budgets)
        return engine

    monkeypatch.setattr("eco2.wiring.Engine", spied)
    settings = Settings(budgets={"maps": BudgetSettings(rpm=50)}, amqp_url="amqp://127.0.0.1:9")
    assert "budget of maps" not in await components_of(settings, "gateway")
    assert given == []
    assert "budget of maps" in await components_of(settings, "worker")
    assert given == ["maps"]


@pytest.mark.usefixtures("_no_settings_around")
async def test_a_worker_that_leaves_some_of_the_budget_unused_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = list[object]()
    logger = SimpleNamespace(info=lambda *_, **__: None, warning=lambda _, advice: said.append(advice))
    monkeypatch.setattr("eco2.assembly.log", logger)
    settings = Settings(concurrency=7, amqp_url="amqp://127.0.0.1:9")
    await components_of(settings, "gateway")
    assert said == []
    await components_of(settings, "worker")
    assert said == warnings(settings) != []


@pytest.mark.usefixtures("_no_settings_around")
async def test_a_pipeline_whose_data_is_not_whole_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def check() -> None:
        raise ConfigurationError("a table is missing")

    pipeline = replace(PIPELINE, check=check)
    monkeypatch.setattr("tests.support.world.PIPELINE", pipeline)
    with pytest.raises(ConfigurationError, match="a table is missing"):
        await components_of(Settings(pipelines="tests.support.world:PIPELINE"), "serve")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KeyboardInterrupt(), 130),
        (ConfigurationError("set it"), 2),
        (BrokerUnavailable("away"), 4),
        (InvalidInput("not a photo"), 5),
        (Eco2Error("anything else"), 1),
    ],
)
def test_a_process_says_by_its_exit_code_why_it_ended(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exit_of(error, monkeypatch) == code


def exit_of(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> object:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as raised:
        cli.main()
    return raised.value.code


def test_an_error_of_nobody_s_making_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExceptionGroup) as raised:
        exit_of(ExceptionGroup("outer", [ZeroDivisionError()]), monkeypatch)
    assert raised.group_contains(ZeroDivisionError)


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 3)])
def test_a_scan_whose_job_failed_exits_with_3(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    async def scan_photo(*args: object, **options: object) -> dict[str, str]:
        return {"status": status}

    photo = tmp_path_factory.mktemp("photo") / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff")
    monkeypatch.setattr("eco2.demo.scan_photo", scan_photo)
    assert CliRunner().invoke(cli.app, ["scan", str(photo)]).exit_code == code


@pytest.mark.usefixtures("_no_settings_around")
@pytest.mark.parametrize(("differences", "code"), [([], 0), (["the queue eco2.dead is missing"], 2)])
def test_a_broker_that_differs_exits_with_2_and_says_how(
    differences: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def inspect(settings: Settings, needed: Topology) -> Inspection:
        return Inspection(Server("RabbitMQ", "4.0.5"), [], differences)

    monkeypatch.setattr("eco2.brokers.inspect", inspect)
    outcome = CliRunner().invoke(cli.app, ["topology", "check"])
    assert outcome.exit_code == code
    assert all(difference in outcome.output for difference in differences)


@pytest.mark.usefixtures("_no_settings_around")
def test_a_process_obeys_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    obeying, ran = list[tuple[asyncio.Event, ...]](), list[tuple[asyncio.Event, ...]]()

    async def run_none(components: Sequence[Component], *events: asyncio.Event) -> None:
        ran.append(events)

    monkeypatch.setattr("eco2.service.stop_on_signals", lambda *events: obeying.append(events))
    monkeypatch.setattr("eco2.service.run", run_none)
    assert CliRunner().invoke(cli.app, ["serve"]).exit_code == 0
    assert len(ran) == 1
    assert obeying == ran


@pytest.mark.usefixtures("_no_settings_around")
async def test_probes_know_that_their_process_stops_long_before_they_stop_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told, stop = list[object](), asyncio.Event()

    def build_probes(**parts: object) -> None:
        told.append(parts["stop"])

    async def serve(*parts: object) -> None:
        pass

    monkeypatch.setattr("eco2.gateway.app.build_probes", build_probes)
    monkeypatch.setattr("eco2.gateway.server.serve", serve)
    async with assembly.process(Settings(amqp_url="amqp://127.0.0.1:9"), "worker", stop) as components:
        (probes,) = (component for component in components if component.name == "probes")
        await probes.run(asyncio.Event())
    assert told == [stop]


RESIDENT = """
from pathlib import Path
from eco2.service import set_mmap_threshold

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

assert set_mmap_threshold()
before = resident()
pictures, small = [], []
for number in range(400):
    pictures.append(bytes([number % 256]) * 100_000)
    small.append(bytes([number % 256]) * 1_000)
full = resident()
pictures.clear()
print(full - before, resident() - before)
"""


def test_large_pieces_go_back_to_the_system_though_small_ones_between_them_stay() -> None:
    done = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    full, left = map(int, done.stdout.split())
    assert full > 40_000_000
    assert left < 4_000_000


def test_what_is_loaded_is_out_of_the_collectors_sight() -> None:
    before = gc.get_threshold()
    gc.unfreeze()
    gc.set_threshold(700)
    try:
        freeze_gc()
        assert gc.get_freeze_count() > len(gc.get_objects())
        assert gc.get_threshold()[0] > 700
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
