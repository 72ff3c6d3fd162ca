"""What a fuzzer that goes by an OpenAPI file sends (as schemathesis does), and what it checks.

Of each field of the API: values that its type allows, at their bounds, and each kind that it does not; fields
that are missing, null, unknown, there twice; every method, content type, query and odd framing; with and
without the right key. Checked is that nothing is a failure of the server, that refusals are errors as the API
has them, that methods that are not there are named as such, and that no request passes without its key.
Whether a value is right is the upstream's to say: it gets what the layer need not understand.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("uvicorn", reason="needs the extra serve")

from real.serving.keys import Key, Keys, digest
from tests.real.serving.running import Up
from tests.real.serving.test_hostile import END, WORD, behind, json_values, raw, request, saying, status_of

CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"
POSTED, GOT = (CHAT, PLAIN), ("/v1/models", "/health", "/status", "/metrics", "/")
MESSAGE = {"role": "user", "content": "say 3"}
KINDS: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "integer": 3,
    "number": 0.5,
    "string": "say \u00e9\U0001f600\u0000",
    "array": ["a", 1, None],
    "object": {"a": {"b": []}},
}
FIELDS: dict[str, tuple[str, Any, tuple[Any, ...]]] = {
    "model": ("string", "fake", ("", "x" * 100_000, "\U0001f600")),
    "messages": ("array", [MESSAGE], ([], [{}], [MESSAGE] * 500, [{**MESSAGE, "content": [MESSAGE]}])),
    "prompt": ("string", "say 3", ("", [], [[]], [1, 2], [[1], [2]], "x" * 100_000)),
    "max_tokens": ("integer", 5, (0, -1, 1, 2**31, 2**63, 10**400, 5.0)),
    "max_completion_tokens": ("integer", 5, (0, -1, 2**63)),
    "n": ("integer", 1, (0, -1, 2, 10**9)),
    "temperature": ("number", 0.0, (-1, 2, 1e308, -0.0)),
    "top_p": ("number", 1.0, (-1, 2)),
    "stream": ("boolean", False, ()),
    "stream_options": ("object", {"include_usage": True}, ({}, {"include_usage": 1}, {"x": {}})),
    "stop": ("array", ["x"], ("", [""] * 500, [None])),
    "priority": ("integer", 0, (-100, 100, -101, 2**63)),
    "user": ("string", "u", ("", "x" * 100_000)),
    "tools": ("array", [{"type": "function", "function": {"name": "f"}}], ([], [{}])),
    "logit_bias": ("object", {"5": 1}, ({}, {"": None})),
    "nvext": ("object", {"agent_hints": {"osl": 5}}, ({"agent_hints": {"osl": ""}}, {"agent_hints": []})),
}
"""The kind of each field, a right value, and others of its kind or near to it."""
WHOLE = {name: right for name, (_, right, _) in FIELDS.items()}


def wrong(name: str) -> list[dict[str, Any]]:
    """Bodies in which one field is of another kind, at a bound, or not there."""
    kind, _, others = FIELDS[name]
    values = [*others, *(value for other, value in KINDS.items() if other != kind)]
    return [{k: v for k, v in WHOLE.items() if k != name}, *({**WHOLE, name: value} for value in values)]


def sent(path: str, body: bytes, *headers: str, method: str = "POST") -> bytes:
    return request(body, *headers).replace(b"POST /v1/chat/completions", f"{method} {path}".encode(), 1)


def check(answer: bytes, statuses: set[int]) -> None:
    """One of these; what is refused is refused as the API does it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert status_of(answer) in statuses
    if status_of(answer) != 200:
        assert b"content-type: application/json" in head.lower()
        assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_values_of_each_kind_in_each_field() -> None:
    async def test(up: Up) -> None:
        for path in POSTED:
            bodies = [WHOLE, *(body for name in FIELDS for body in wrong(name))]
            for body in bodies:
                data = json.dumps(body).encode()
                check(await raw(up, sent(path, data)), {200, 400} if body is not WHOLE else {200})

    behind(saying(WORD, END), test)


TEXTS = st.text(max_size=8)
SCHEMED = st.fixed_dictionaries(
    {}, optional={name: st.just(v[1]) | json_values for name, v in FIELDS.items()}
)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    asked=st.lists(
        st.tuples(SCHEMED, st.dictionaries(TEXTS, json_values, max_size=3)), min_size=10, max_size=15
    )
)
def test_fields_in_any_company(asked: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    async def test(up: Up) -> None:
        bodies = [json.dumps({**more, **body}).encode() for body, more in asked]
        for path in POSTED:
            for answer in await asyncio.gather(*(raw(up, sent(path, body)) for body in bodies)):
                check(answer, {200, 400})

    behind(saying(WORD, END), test)


@pytest.mark.parametrize("name", ["max_tokens", "stream", "priority", "messages"])
def test_a_field_that_stands_twice_counts_as_upstreams_read_it(name: str) -> None:
    """The last, however the name is written."""

    async def test(up: Up) -> None:
        escaped = "".join(f"\\u{ord(letter):04x}" for letter in name)
        whole = json.dumps(WHOLE)[1:]
        for first in (f'"{name}": {{"x": 1}}', f'"{escaped}": []'):
            assert status_of(await raw(up, sent(CHAT, ("{" + first + "," + whole).encode()))) == 200

    behind(saying(WORD, END), test)


@pytest.mark.parametrize("path", [*POSTED, *GOT])
def test_methods_that_are_not_there_are_named(path: str) -> None:
    async def test(up: Up) -> None:
        allowed = {"POST"} if path in POSTED else {"GET", "HEAD"}
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "x"):
            if method in allowed:
                continue
            answer = await raw(up, sent(path, b"", method=method))
            head = answer.partition(b"\r\n\r\n")[0].decode().lower()
            assert status_of(answer) == 405, method
            (said,) = (line[6:] for line in head.split("\r\n") if line.startswith("allow:"))
            assert {each.strip().upper() for each in said.split(",")} == allowed
        check(await raw(up, sent(f"{path}x", b"", method="GET")), {404})

    behind(saying(WORD, END), test)


TYPES = [
    *("", "application/json", "application/json; charset=utf-16", "application/vnd.api+json", "text/plain"),
    *("application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "*/*"),
    *("application/octet-stream", "not a type", "application/json, text/plain", "a/b; c=\xff"),
]
NO_OBJECTS = (b"", b"<a/>", b"a=b&c=d", b"--x\r\n\r\n--x--", b"\xef\xbb\xbf{}", b"null", b'""', b"[{}]")


@pytest.mark.parametrize("kind", TYPES)
def test_the_body_is_json_whatever_it_is_called(kind: str) -> None:
    async def test(up: Up) -> None:
        header = f"Content-Type: {kind}"
        for path in POSTED:
            check(await raw(up, sent(path, json.dumps(WHOLE).encode(), header)), {200})
            for body in (
                b"",
                b"<a/>",
                b"a=b&c=d",
                b"--x\r\n\r\n--x--",
                b"\xef\xbb\xbf{}",
                b"null",
                b'""',
                b"[{}]",
            ):
                check(await raw(up, sent(path, body, header)), {400})

    behind(saying(WORD, END), test)


QUERIES = ["?", "?a=b", "?a=%00", "?a=%ff&a=%ff", "?" + "a=b&" * 1000, "?stream=true", "?a[]={}"]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_changes_nothing(query: str) -> None:
    async def test(up: Up) -> None:
        for path in POSTED:
            check(await raw(up, sent(path + query, json.dumps(WHOLE).encode())), {200})

    behind(saying(WORD, END), test)


BODY = json.dumps(WHOLE).encode()
SIZE = f"{len(BODY):x}".encode()
REST = f"{len(BODY) - 1:X}".encode()
CHUNKED: list[tuple[bytes, int]] = [
    (SIZE + b"\r\n" + BODY + b"\r\n0\r\n\r\n", 200),
    (
        b"1\r\n" + BODY[:1] + b"\r\n" + f"{len(BODY) - 1:X}".encode() + b"\r\n" + BODY[1:] + b"\r\n0\r\n\r\n",
        200,
    ),
    (SIZE + b";x=y\r\n" + BODY + b"\r\n0\r\n\r\n", 200),
    (SIZE + b"\r\n" + BODY + b"\r\n0\r\nX-Trailer: y\r\n\r\n", 200),
    (b"000" + SIZE + b"\r\n" + BODY + b"\r\n000\r\n\r\n", 200),
    (b"0\r\n\r\n", 400),
    (b"zz\r\n" + BODY, 400),
    (b"-1\r\n" + BODY, 400),
    (b"f" * 40 + b"\r\n" + BODY, 400),
    (b"\r\n\r\n", 400),
]


@pytest.mark.parametrize(("body", "status"), CHUNKED)
def test_chunks_are_put_together_or_refused(body: bytes, status: int) -> None:
    async def test(up: Up) -> None:
        lines = [
            f"POST {CHAT} HTTP/1.1",
            "Host: x",
            "Connection: close",
            "Transfer-Encoding: chunked",
            "",
            "",
        ]
        assert status_of(await raw(up, "\r\n".join(lines).encode() + body)) == status

    behind(saying(WORD, END), test)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        ["Authorization:"],
        ["Authorization: Bearer"],
        ["Authorization: Bearer "],
        ["Authorization: Bearer a-key2"],
        ["Authorization: bearer\ta-ke"],
        ["Authorization: Basic YS1rZXk="],
        ["Authorization: Digest a-key"],
        ["Authorization: a-key"],
        ["Authorization: Bearer a-key, Bearer a-key"],
        ["X-Api-Key: a-key"],
        ["Cookie: key=a-key"],
        ["Authorization: Bearer \xff"],
    ],
)
def test_nothing_passes_without_its_key(headers: list[str]) -> None:
    async def test(up: Up) -> None:
        for path in POSTED:
            check(await raw(up, sent(path, BODY, *headers)), {401})
        check(await raw(up, sent("/v1/models?key=a-key", b"", *headers, method="GET")), {401})

    behind(saying(WORD, END), test, keys=Keys((Key("alice", digest("a-key")),)))
