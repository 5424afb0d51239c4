"""The process's ear: it can be closed at any moment, and wakes everybody when it begins to hear."""

import asyncio

import redis.asyncio

from benchfarm_api.metrics import create_metrics
from benchfarm_api.wakeups import LOOK_AGAIN_DEAF_S, LOOK_AGAIN_S, Wakeups
from benchfarm_core.messages import agent_channel


def test_closing_ends_while_it_connects(redis_url: str) -> None:
    async def open_and_close() -> None:
        for turn in range(60):
            wakeups = Wakeups(redis_url, create_metrics())
            await wakeups.start()
            await asyncio.sleep(turn % 20 / 2000)
            await asyncio.wait_for(wakeups.stop(), 5)

    asyncio.run(open_and_close())


def test_a_listener_hears_its_channel_only(redis_url: str) -> None:
    async def listen() -> None:
        wakeups = Wakeups(redis_url, create_metrics())
        with wakeups.listen(agent_channel("a_1")) as mine, wakeups.listen(agent_channel("a_2")) as other:
            assert wakeups.look_again_s == LOOK_AGAIN_DEAF_S
            await wakeups.start()
            # All wake once when the subscription holds: what was said before is lost.
            await asyncio.wait_for(asyncio.gather(mine.heard(), other.heard()), 5)
            assert wakeups.look_again_s == LOOK_AGAIN_S
            mine.reset()
            other.reset()
            async with redis.asyncio.Redis.from_url(redis_url) as valkey:
                await valkey.publish(agent_channel("a_1"), b"")
            await asyncio.wait_for(mine.heard(), 5)
            hearing = asyncio.create_task(other.heard())
            await asyncio.sleep(0)
            assert not hearing.done()
            hearing.cancel()
        await wakeups.stop()

    asyncio.run(listen())


def test_begin_closing_lets_all_go(redis_url: str) -> None:
    async def close() -> None:
        wakeups = Wakeups(redis_url, create_metrics())
        await wakeups.start()
        with wakeups.listen("benchfarm:job:x") as listener:
            await asyncio.to_thread(wakeups.begin_closing)
            await asyncio.wait_for(listener.heard(), 5)
        assert wakeups.closing
        await wakeups.stop()

    asyncio.run(close())
