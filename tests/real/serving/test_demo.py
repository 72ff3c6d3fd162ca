"""The server to try the layer with answers like others do, and what it answers can be learnt."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.observing.wording import Wording
from real.serving.demo import LONGEST, demo_server, tokens_of
from real.serving.lengths import Ask, OnlineLength
from real.serving.serve import serve
from real.serving.settings import ServeSettings
from tests.real.serving.running import layer_before
from traces.errors import InputError


def test_its_answers_come_through_the_layer_streaming_and_not() -> None:
    async def go() -> None:
        async with demo_server(4) as url, layer_before(url) as up:
            for chat in (True, False):
                status, answer = await up.ask("how are you", chat=chat, max_tokens=12)
                choice = json.loads(answer)["choices"][0]
                text = choice["message"]["content"] if chat else choice["text"]
                assert status == 200 and json.loads(answer)["usage"]["completion_tokens"] == 12
                assert choice["finish_reason"] == "length"
                _, stream = await up.ask("how are you", chat=chat, max_tokens=12, stream=True)
                events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")]
                parts = [event["choices"][0] for event in events]
                said = [part["delta"].get("content", "") if chat else part["text"] for part in parts]
                assert "".join(said) == text and len(said) == 13

    asyncio.run(go())


def test_lengths_depend_on_the_words_and_keep_to_what_is_asked() -> None:
    rng = np.random.default_rng(0)
    texts = [Wording.words(20, rng) for _ in range(2000)]
    lengths = [tokens_of({}, text) for text in texts]
    assert lengths == [tokens_of({}, text) for text in texts]
    assert min(lengths) < 15 < 60 < np.median(lengths) < 75 < 400 < max(lengths) <= LONGEST
    assert tokens_of({"max_tokens": 3}, texts[0]) == 3
    assert tokens_of({"max_tokens": 700, "min_tokens": 700}, texts[0]) == 700
    assert tokens_of({"max_tokens": 10**9, "min_tokens": 10**9}, "") == LONGEST


def test_there_is_something_to_learn() -> None:
    rng = np.random.default_rng(1)
    learner, errors, of_median = OnlineLength(), [], []
    for i in range(4000):
        ask = Ask("demo", Wording.words(12, rng), None)
        tokens = tokens_of({}, ask.text)
        if i >= 3000:
            errors.append(abs(learner.predict(ask).tokens - tokens))
            of_median.append(abs(learner.watch.median.predict(ask).tokens - tokens))
        learner.learn(ask, tokens)
    assert learner.watch.is_better and np.mean(errors) < 0.85 * np.mean(of_median)


def test_a_name_that_is_no_address_is_refused() -> None:
    with pytest.raises(InputError, match="upstream: 'demos' is not the address of a server"):
        serve("demos", ServeSettings(port=0))
