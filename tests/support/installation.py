"""An installation on a real RabbitMQ for tests of the operator's commands: a gateway, workers that come and
go, and a provider that keeps count."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aio_pika
import httpx

from eco2 import assembly, brokers, service
from eco2.client import Client, ClientEvent, ClientJob
from eco2.fake.config import FakeConfig
from eco2.ports import DEAD, jobs_queue, retry_queue
from eco2.service import Component
from eco2.settings import Settings
from eco2.stages import DEMO_PHOTO
from tests.conformance.rabbitmq_node import delete
from tests.support.fake_provider import Fake, running

ALL = [0, 10, 11, 20, 21, 30, 31, 40, 41, 51]
"""What a client sees of a scan that completes, by `seq`."""
CARTON = {"middle_category": "종이팩", "minor_category": "우유팩", "situation_tags": []}
"""What the model sees in every photo. What the fake makes up may be nothing known, which ends the scan."""


@dataclass
class Installation:
    """`settings`: those of every process and command. `client`: of its gateway."""

    settings: Settings
    provider: Fake
    client: Client

    async def submit(self) -> ClientJob:
        return await self.client.submit("scan", {}, files={"image": DEMO_PHOTO})

    async def events(self, job_id: str, pipeline: str = "scan") -> list[ClientEvent]:
        """The durable events of the job, up to its end, as its client sees them."""
        async with asyncio.timeout(60):
            stream = self.client.events(ClientJob.at(pipeline, job_id))
            return [event async for event in stream if event.seq is not None]

    async def paid(self) -> Counter[str]:
        """How often each job was answered, and so charged for, once no answer is under way."""
        calls = await self.provider.until(lambda calls: all(call["ended_at"] is not None for call in calls))
        return Counter(call["job"] for call in calls if call["status"] == 200)

    @asynccontextmanager
    async def worker(self) -> AsyncIterator[None]:
        async with _process(self.settings, "worker", assembly.Listening()):
            yield

    async def consumers(self) -> int:
        """Of the scan's work queues."""
        return sum([(await self._declared(queue))[1] for queue in self.queues])

    async def depth(self, queue: str) -> int:
        """Messages that nobody holds."""
        return (await self._declared(queue))[0]

    async def purge(self) -> None:
        """Throws every order away, as an accident would."""
        async with await aio_pika.connect(str(self.settings.amqp_url)) as connection:
            channel = await connection.channel()
            for queue in self.queues:
                await (await channel.get_queue(f"{self.settings.prefix}.{queue}")).purge()

    async def order(self, job_id: str) -> bytes:
        """The order of a dead job."""
        needed = brokers.topology(self.settings, assembly.pipelines(self.settings))
        async with brokers.open_dead_letters(self.settings, needed) as letters:
            return next(letter.body for letter in letters if letter.message_id == job_id)

    async def bury(self, body: bytes, message_id: str = "") -> None:
        """Puts a letter among the dead ones, without a word on why."""
        async with await aio_pika.connect(str(self.settings.amqp_url)) as connection:
            channel = await connection.channel()
            message = aio_pika.Message(body, message_id=message_id)
            await channel.default_exchange.publish(message, f"{self.settings.prefix}.{DEAD}")

    @property
    def queues(self) -> tuple[str, str]:
        return jobs_queue("scan"), retry_queue("scan")

    async def _declared(self, queue: str) -> tuple[int, int]:
        async with await aio_pika.connect(str(self.settings.amqp_url)) as connection:
            channel = await connection.channel()
            found = await channel.get_queue(f"{self.settings.prefix}.{queue}")
            result = found.declaration_result
            return result.message_count or 0, result.consumer_count or 0


@asynccontextmanager
async def installation(
    amqp_url: str, prefix: str, pipelines: str = "tests.support.buggy_scan:scan"
) -> AsyncIterator[Installation]:
    """A running gateway and no worker yet. What it made at the broker is deleted at the end."""
    config = FakeConfig(rpm=None, tpm=None, scale=0.0, answers={"Sight": (CARTON,)})
    async with running(config) as provider:
        settings = Settings(
            amqp_url=amqp_url,
            prefix=prefix,
            pipelines=pipelines,
            openai_api_key="test",
            openai_base_url=f"{provider.url}/v1",
            image_urls="on",
            port=0,
            worker_port=0,
            prefetch=10,
        )
        port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with (
            _process(settings, "gateway", assembly.Listening(gateway=port.set_result)),
            Client(f"http://127.0.0.1:{await port}", patience=30) as client,
        ):
            here = Installation(settings, provider, client)
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port.result()}") as http:

                async def ready() -> bool:
                    return (await http.get("/readyz")).status_code == 200

                await until(ready)
            yield here
    await delete(amqp_url, brokers.topology(settings, assembly.pipelines(settings)))


@asynccontextmanager
async def _process(
    settings: Settings, role: assembly.Role, listening: assembly.Listening
) -> AsyncIterator[list[Component]]:
    stop = asyncio.Event()
    async with (
        assembly.process(settings, role, stop, listening) as components,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(service.run(components, stop))
        try:
            yield components
        finally:
            stop.set()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns once the condition holds; fails after 30 s."""
    async with asyncio.timeout(30):
        while not await condition():  # noqa: ASYNC110  # a broker sets no event
            await asyncio.sleep(0.05)
