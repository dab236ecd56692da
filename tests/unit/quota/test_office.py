"""A term lasts exactly as long as the leader's request to itself is open."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from eco2.errors import NoReply
from eco2.ports import Express, Subscription
from eco2.quota.message import Office, decode_request
from eco2.quota.office import ARRIVAL, Seat
from tests.support.virtual_clock import virtual
from tests.support.world import until


class Post:
    """An `Rpc` that a test answers by hand."""

    def __init__(self) -> None:
        self.asked: list[Office] = []
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def request(self, service: str, body: bytes, timeout: float, *, express: bool = False) -> bytes:
        request = decode_request(body)
        assert isinstance(request, Office)
        self.asked.append(request)
        self.answer = asyncio.get_running_loop().create_future()
        return await self.answer

    def serve(
        self, service: str, handler: Callable[[bytes], Awaitable[bytes]], express: Express | None = None
    ) -> Subscription:
        raise AssertionError("the leader serves, not its seat")


class Scene:
    def __init__(self) -> None:
        self.post = Post()
        self.terms: list[str] = []
        self.ended = 0
        self.seat = Seat(self.post, "quota", self._prepare, self.terms.append, self._end)

    async def _prepare(self) -> None:
        """Nothing is missing."""

    def _end(self) -> None:
        self.ended += 1

    async def asks(self, times: int) -> Office:
        """The request of its `times`-th candidacy."""
        await until(lambda: len(self.post.asked) == times)
        return self.post.asked[-1]


@asynccontextmanager
async def in_office() -> AsyncIterator[tuple[Scene, Office, asyncio.Task[None]]]:
    """A seat whose request has come back to it; the task handles that request."""
    scene = Scene()
    running = asyncio.get_running_loop().create_task(scene.seat.run())
    scene.seat.want()
    office = await scene.asks(1)
    handling = asyncio.get_running_loop().create_task(scene.seat.hold(office))
    await until(lambda: scene.terms == [office.token])
    yield scene, office, handling
    running.cancel()
    await asyncio.wait({running})
    assert scene.ended == len(scene.terms)


@virtual
async def test_it_stays_in_office_while_its_request_is_open() -> None:
    async with in_office() as (scene, _, handling):
        await asyncio.sleep(300)
        assert not handling.done()
        assert scene.ended == 0
    await handling


@virtual
async def test_a_lost_connection_ends_the_term() -> None:
    async with in_office() as (scene, _, handling):
        scene.post.answer.set_exception(NoReply("the connection went"))
        await handling
        assert scene.ended == 1


@virtual
async def test_a_successor_that_answers_ends_the_term() -> None:
    async with in_office() as (scene, _, handling):
        scene.post.answer.set_result(b"")
        await handling
        assert scene.ended == 1


@virtual
async def test_a_request_that_comes_again_ends_the_term_before_anything_behind_it() -> None:
    async with in_office() as (scene, office, handling):
        await scene.seat.hold(office)
        assert scene.ended == 1
        await handling
        await scene.seat.hold(office)  # and once more: nothing to end
        assert scene.ended == 1


@virtual
async def test_the_next_term_needs_a_request_of_its_own() -> None:
    async with in_office() as (scene, office, handling):
        scene.post.answer.set_result(b"")
        await handling
        scene.seat.want()
        again = await scene.asks(2)
        assert again.token != office.token
        await scene.seat.hold(office)
        assert scene.terms == [office.token]
        handled = asyncio.get_running_loop().create_task(scene.seat.hold(again))
        await until(lambda: scene.terms == [office.token, again.token])
    await handled


@virtual
async def test_another_process_request_is_let_go_at_once() -> None:
    async with in_office() as (scene, _, _):
        await scene.seat.hold(Office(token="of another"))
        assert scene.ended == 0


@virtual
async def test_who_is_not_handed_its_request_is_not_the_leader() -> None:
    scene = Scene()
    running = asyncio.get_running_loop().create_task(scene.seat.run())
    scene.seat.want()
    late = await scene.asks(1)
    await asyncio.sleep(ARRIVAL + 0.1)
    await scene.seat.hold(late)
    assert scene.terms == []
    scene.seat.want()
    await scene.asks(2)
    running.cancel()
    await asyncio.wait({running})
