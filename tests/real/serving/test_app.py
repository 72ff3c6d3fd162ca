"""What a client of the layer sees: the upstream's own answers, whatever the layer does with them."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")

import aiohttp

from real.serving.keys import Key, Keys, digest
from tests.real.serving.running import Up, layer_before, with_fakes
from tests.real.serving.upstream import Fake, answer_of, listening

PROMPTS = [f"prompt number {k} {1 + 7 * k % 23}" for k in range(20)]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def content_of(answer: bytes) -> str:
    choice = json.loads(answer)["choices"][0]
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("usage", [None, True])
def test_a_stream_is_the_upstreams_byte_for_byte(chat: bool, usage: bool | None) -> None:
    async def test(up: Up, fake: Fake) -> None:
        extra: dict[str, Any] = {} if usage is None else {"stream_options": {"include_usage": usage}}
        direct_url = up.layer.pool.upstreams[0].url
        through = await asyncio.gather(*(up.ask(p, chat=chat, stream=True, **extra) for p in PROMPTS))
        direct = [await up.ask(p, chat=chat, stream=True, url=direct_url, **extra) for p in PROMPTS]
        assert through == direct and all(status == 200 for status, _ in direct)
        assert (b'"usage"' in through[0][1]) == bool(usage)

    with_fakes(test)


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("takes_usage", [True, False])
@pytest.mark.parametrize("takes_stream", [True, False])
def test_an_answer_at_once_says_what_the_upstream_would(
    chat: bool, takes_usage: bool, takes_stream: bool
) -> None:
    async def test(up: Up, fake: Fake) -> None:
        direct_url = up.layer.pool.upstreams[0].url
        through = await asyncio.gather(*(up.ask(p, chat=chat) for p in PROMPTS))
        direct = [await up.ask(p, chat=chat, url=direct_url) for p in PROMPTS]
        for (status, mine), (_, theirs) in zip(through, direct, strict=True):
            expected = json.loads(theirs)
            if takes_stream and not takes_usage:
                del expected["usage"]  # nobody counted
            assert status == 200 and json.loads(mine) == expected

    with_fakes(test, {"takes_usage": takes_usage, "takes_stream": takes_stream})


def test_fields_that_nobody_knows_and_the_clients_own_bytes_go_on() -> None:
    async def test(up: Up, fake: Fake) -> None:
        fields = {"tools": TOOLS, "nvext": {"agent_hints": {"osl": 3}}, "zzz": [1.50, None, "é"]}
        await up.ask("say 3", **fields)
        sent = fake.seen[-1]
        assert {name: sent[name] for name in fields} == fields
        assert sent["stream"] is True and sent["stream_options"] == {"include_usage": True}
        await up.ask("say 3", stream=True, stream_options={"include_usage": True, "other": 1}, **fields)
        assert fake.seen[-1]["stream_options"] == {"include_usage": True, "other": 1}
        _, body = await up.ask("say 3", stream_options=None, stream=False)
        assert fake.seen[-1]["stream"] is True and content_of(body) == "".join(answer_of("say 3", 3))

    with_fakes(test)


def test_what_the_upstream_refuses_is_refused_in_its_own_words() -> None:
    async def test(up: Up, fake: Fake) -> None:
        for stream in (True, False):
            status, body = await up.ask("refuse", stream=stream)
            assert status == 400 and json.loads(body)["error"]["message"] == "I'd rather not"
        assert not up.layer.pool.upstreams[0].refuses and up.layer.pool.upstreams[0].num_failures == 0

    with_fakes(test)


def test_what_an_upstream_does_not_take_is_not_tried_again() -> None:
    async def test(up: Up, fake: Fake) -> None:
        for _ in range(3):
            status, body = await up.ask("say 4", stream=True)
            assert status == 200 and body.endswith(b"data: [DONE]\n\n")
        assert len(fake.seen) == 4

    with_fakes(test, {"takes_usage": False})


def test_models_health_and_paths_that_are_none() -> None:
    async def test(up: Up, fake: Fake) -> None:
        async with up.session.get(f"{up.url}/v1/models") as response:
            assert (await response.json())["data"][0]["id"] == "fake"
        async with up.session.get(f"{up.url}/health") as response:
            assert response.status == 200
        for path in ("/v1/embeddings", "/..%2f..%2fadmin", "//evil.example/v1/chat/completions", "/v1"):
            async with up.session.post(up.url + path, json={}, allow_redirects=False) as response:
                assert response.status in (404, 405), path
        assert not fake.seen

    with_fakes(test)


@pytest.mark.parametrize(
    ("data", "headers"),
    [
        (b"", {}),
        (b"[1]", {}),
        (b"{" * 100_000, {}),
        (b'"x"', {}),
        (b'{"prompt": "x"}', {"X-Seqsched-Priority": "high"}),
        (b'{"prompt": "x"}', {"X-Seqsched-Priority": "101"}),
        (b'{"prompt": "x"}', {"X-Seqsched-Deadline-S": "nan"}),
        (b'{"prompt": "x"}', {"X-Seqsched-Output-Tokens": "-1"}),
        (b'{"prompt": "x", "priority": 1000000}', {}),
    ],
)
def test_a_request_that_cannot_be_understood_is_the_clients_fault(
    data: bytes, headers: dict[str, str]
) -> None:
    async def test(up: Up, fake: Fake) -> None:
        async with up.session.post(f"{up.url}/v1/completions", data=data, headers=headers) as response:
            assert response.status == 400
            assert (await response.json())["error"]["type"] == "invalid_request_error"
        assert not fake.seen

    with_fakes(test)


def test_a_body_that_is_too_large_is_refused_however_it_comes() -> None:
    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 100

    async def test(up: Up, fake: Fake) -> None:
        for data in (b"x" * 4000, pieces()):
            async with up.session.post(f"{up.url}/v1/completions", data=data) as response:
                assert response.status == 413
        assert not fake.seen

    with_fakes(test, max_body=1000)


def test_keys_are_asked_for_and_the_upstream_gets_its_own() -> None:
    keys = Keys((Key("alice", digest("secret-a")),))

    async def run() -> None:
        async with (
            listening(fake := Fake()) as url,
            layer_before(url, keys=keys, upstream_key="secret-up") as up,
        ):
            for header in (None, "Bearer wrong", "Bearer", "Basic secret-a", "Bearer secret-a "):
                headers = {} if header is None else {"Authorization": header}
                status, body = await up.ask(headers=headers)
                assert status == (200 if header == "Bearer secret-a " else 401)
                assert b"secret" not in body
            async with up.session.get(f"{up.url}/v1/models") as response:
                assert response.status == 401
            assert [headers["Authorization"] for headers in fake.headers] == ["Bearer secret-up"]

    asyncio.run(run())


def test_without_keys_the_clients_own_goes_on() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await up.ask(
            headers={"Authorization": "Bearer mine", "X-Request-Id": "7", "Connection": "x-hop", "X-Hop": "1"}
        )
        sent = {name.lower(): value for name, value in fake.headers[-1].items()}
        assert sent["authorization"] == "Bearer mine" and sent["x-request-id"] == "7" and "x-hop" not in sent

    with_fakes(test)


def test_openais_client_needs_no_change() -> None:
    openai = pytest.importorskip("openai", reason="needs OpenAI's client")

    async def test(up: Up, fake: Fake) -> None:
        client = openai.AsyncOpenAI(base_url=f"{up.url}/v1", api_key="any", max_retries=0)
        assert [model.id async for model in client.models.list()] == ["fake"]
        asked: Any = {"model": "fake", "messages": [{"role": "user", "content": "say 6"}]}
        answer = await client.chat.completions.create(**asked)
        assert answer.choices[0].message.content == "".join(answer_of("say 6", 6))
        assert answer.usage.completion_tokens == 6
        parts = [
            part.choices[0].delta.content or ""
            async for part in await client.chat.completions.create(**asked, stream=True)
        ]
        assert "".join(parts) == "".join(answer_of("say 6", 6))
        with pytest.raises(openai.BadRequestError):
            await client.completions.create(model="fake", prompt="refuse")
        with pytest.raises(openai.APIError, match="broke off"):
            async for _ in await client.chat.completions.create(
                **asked, stream=True, extra_body={"fake": {"fault": "die", "always": True}}
            ):
                pass
        await client.close()

    with_fakes(test)


def test_the_numbers_of_the_field_are_there() -> None:
    async def test(up: Up, fake: Fake) -> None:
        await asyncio.gather(*(up.ask(p) for p in PROMPTS))
        async with up.session.get(f"{up.url}/metrics") as response:
            text = await response.text()
        assert 'seqsched_request_success_total{finished_reason="stop",model_name="fake"} 20.0' in text
        total = sum(int(p.split()[-1]) for p in PROMPTS)
        assert f'seqsched_generation_tokens_total{{model_name="fake"}} {float(total)}' in text
        assert "seqsched_num_requests_running 0.0" in text and "seqsched_num_slots 4.0" in text

    with_fakes(test)


def test_names_that_clients_make_up_are_no_labels() -> None:
    async def test(up: Up, fake: Fake) -> None:
        for k in range(5):
            await up.ask("refuse", model=f"made-up-{k}")
        assert b"made-up" not in up.layer.expose()
        for k in range(120):
            await up.ask("say 1", model=f"real-{k}")
        assert up.layer.expose().count(b"seqsched_generation_tokens_total{") == 101

    with_fakes(test)


def test_tokens_do_not_wait_for_one_another() -> None:
    async def test(up: Up, fake: Fake) -> None:
        for listening_at in (each for server in up.server.servers for each in server.sockets):
            assert listening_at.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    with_fakes(test)


def test_a_client_session_that_ends_leaves_no_slot_taken() -> None:
    async def test(up: Up, fake: Fake) -> None:
        async def vanish(k: int) -> None:
            async with aiohttp.ClientSession() as session:
                try:
                    async with asyncio.timeout(0.02 + 0.004 * (k % 10)):
                        body = {"prompt": f"{k} 5000", "stream": bool(k % 2)}
                        async with session.post(f"{up.url}/v1/completions", json=body) as response:
                            await response.read()
                except TimeoutError:
                    return
                raise AssertionError("it should have been left")

        await asyncio.gather(*(vanish(k) for k in range(40)))
        assert (await up.ask("say 3"))[0] == 200
        await up.idle()
        for _ in range(100):
            if not fake.open:
                break
            await asyncio.sleep(0.01)
        assert fake.open == 0 and fake.answered == 1

    with_fakes(test)
