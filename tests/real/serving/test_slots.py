"""Slots as servers say them, and as vLLM's queue shows them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving import slots
from real.serving.slots import FIRST_SLOTS, SlotSource, SlotWatch
from real.serving.upstreams import Upstream
from tests.real.serving.running import Up, layer_before, with_fakes
from tests.real.serving.upstream import Fake, listening
from traces.errors import InputError


@pytest.mark.parametrize("says", ["llama.cpp", "sglang", "vllm, stated"])
def test_a_server_that_states_its_slots_gets_as_many_requests(says: str) -> None:
    async def test(up: Up, fake: Fake) -> None:
        await asyncio.gather(*(up.ask(f"prompt {i} 20") for i in range(18)))
        assert fake.most == 6 and up.layer.pool.capacity(0.0) == 6

    with_fakes(test, {"says": says, "slots": 6}, slots="auto")


@pytest.mark.parametrize("says", ["", "garbage"])
def test_a_server_that_says_nothing_is_refused_in_one_line(says: str) -> None:
    async def go() -> None:
        async with listening(Fake(says=says)) as url:
            with pytest.raises(InputError, match=f"^slots: auto, but {url} does not say .*; --slots N does$"):
                async with layer_before(url, slots="auto"):
                    pass

    asyncio.run(go())


@pytest.mark.parametrize("slots_there", [3, 20])
def test_the_slots_of_vllm_are_found_by_who_waits_there(
    slots_there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "WATCH_S", 0.01)

    async def test(up: Up, fake: Fake) -> None:
        (upstream,) = up.layer.pool.upstreams
        assert upstream.slots == FIRST_SLOTS
        asked = [asyncio.create_task(up.ask(f"prompt {i} 60")) for i in range(200)]
        near = range(slots_there, slots_there + max(1, slots_there // 4) + 1)
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if upstream.slots in near and len(fake.running) == slots_there:
                break
        else:
            raise AssertionError(f"{upstream.slots} slots, {slots_there} there")
        assert all(status == 200 for status, _ in await asyncio.gather(*asked))

    with_fakes(test, {"says": "vllm", "slots": slots_there, "scale": 0.3}, slots="auto", max_queue=None)


def test_one_moment_of_waiting_says_nothing_and_nobody_here_asks_for_no_more() -> None:
    changes = []

    async def go() -> None:
        async with aiohttp.ClientSession() as session:
            is_wanted = False
            watch = SlotWatch(SlotSource(session, {}), lambda: is_wanted, lambda: changes.append(1))
            upstream = Upstream("http://a", 8, busy=8, says_waiting=True)
            for num_waiting, expected in ((3, 8), (0, 8), (3, 8), (3, 5), (9, 1), (0, 1)):
                watch.heard(upstream, num_waiting)
                assert upstream.slots == expected
            is_wanted = True
            watch.heard(upstream, 0)
            assert (upstream.slots, len(changes)) == (2, 1)

    asyncio.run(go())
