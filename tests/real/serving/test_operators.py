"""What operators see: numbers that are right, no texts, no keys; a page that works in a browser."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shlex
import shutil
import ssl
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("uvicorn", reason="needs the extra serve")

import aiohttp

from real.serving import app
from real.serving.keys import Key, Keys, digest
from real.serving.metrics import Metrics
from real.serving.settings import ServeSettings
from tests.real.serving.running import Up, layer_before, with_fakes
from tests.real.serving.test_mirror import copied
from tests.real.serving.upstream import Fake, listening
from tests.sim.command import run

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)


async def status_of(up: Up) -> dict[str, object]:
    async with up.session.get(f"{up.url}/status") as response:
        assert response.status == 200 and response.headers["cache-control"] == "no-store"
        numbers: dict[str, object] = await response.json()
        return numbers


def test_the_status_counts_who_runs_who_waits_and_what_was_answered() -> None:
    async def test(up: Up, fake: Fake) -> None:
        empty = await status_of(up)
        assert (empty["running"], empty["waiting"], empty["queue"], empty["recent"]) == (0, 0, [], [])
        hint = {"agent_hints": {"osl": 100}}
        asked = [asyncio.create_task(up.ask(f"secret words {i} 40", nvext=hint)) for i in range(9)]
        while up.layer.executor.num_running < 4 or len(up.layer.executor.waiting) < 5:
            await asyncio.sleep(0.002)
        busy = await status_of(up)
        assert (busy["running"], busy["waiting"], busy["queue"]) == (4, 5, [["128", 5]])
        assert 0 < float(str(busy["longest_wait_s"])) < 30 and "secret" not in json.dumps(busy)
        await asyncio.gather(*asked)
        await up.ask("refuse")
        after = await status_of(up)
        recent, arms = after["recent"], after["arms"]
        assert isinstance(recent, list) and [row[:2] for row in recent] == [[100, 40]] * 9
        assert isinstance(arms, dict) and (arms["policy"]["requests"], arms["policy"]["failed"]) == (10, 1)
        assert arms["policy"]["e2el_s"]["mean"] >= arms["policy"]["wait_s"]["mean"] > 0
        assert arms["fcfs"] == {"requests": 0, "failed": 0, "wait_s": None, "e2el_s": None}

    with_fakes(test)


def test_an_upstream_that_is_down_is_shown() -> None:
    async def go() -> None:
        async with layer_before("http://127.0.0.1:9", retries=6) as up:
            await up.ask()
            upstreams = (await status_of(up))["upstreams"]
            assert isinstance(upstreams, list) and not upstreams[0]["is_up"] and upstreams[0]["failures"] >= 5

    asyncio.run(go())


def test_where_clients_need_a_key_operators_do() -> None:
    keys = Keys((Key("alice", digest("a-key")),))

    def basic(text: bytes) -> str:
        return "Basic " + base64.b64encode(text).decode()

    async def go() -> None:
        async with listening(Fake()) as url, layer_before(url, keys=keys) as up:
            for path in ("/", "/status", "/metrics"):
                for header, expected in (
                    (None, 401),
                    ("Bearer other", 401),
                    (basic(b"alice:other"), 401),
                    ("Basic a-key", 401),
                    ("Basic \xff", 401),
                    ("Bearer a-key", 200),
                    (basic(b"anybody:a-key"), 200),
                ):
                    headers = {} if header is None else {"Authorization": header}
                    async with up.session.get(up.url + path, headers=headers) as response:
                        assert response.status == expected, (path, header)
                        assert "a-key" not in await response.text()
                        assert expected == 200 or response.headers["www-authenticate"].startswith("Basic")
            async with up.session.get(f"{up.url}/health") as response:
                assert response.status == 200

    asyncio.run(go())


def test_the_page_loads_nothing_from_elsewhere() -> None:
    async def test(up: Up, fake: Fake) -> None:
        async with up.session.get(up.url) as response:
            text = await response.text()
            assert response.status == 200 and response.content_type == "text/html"
            assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")

    with_fakes(test)


def test_the_status_says_how_many_greedy_answers_came_the_same_again() -> None:
    async def test(up: Up, fake: Fake) -> None:
        empty = {"answers": {}, "to_come": 0, "left_out": 0}
        assert (await status_of(up))["mirror"] == empty
        await asyncio.gather(*(up.ask(f"words {k} 7", temperature=0) for k in range(20)))
        mirror = up.layer.mirror
        assert mirror is not None
        to_come = (await status_of(up))["mirror"]
        assert isinstance(to_come, dict) and to_come["to_come"] == len(mirror.waiting) + len(mirror.running)
        await copied(up)
        fake.drifts = True
        await asyncio.gather(*(up.ask(f"others {k} 7", temperature=0) for k in range(10)))
        await copied(up)
        found = (await status_of(up))["mirror"]
        assert isinstance(found, dict) and found["to_come"] == found["left_out"] == 0
        answers = found["answers"]["policy"]
        assert (answers["total"], answers["same"]) == (30, 20)
        low, high = answers["interval"]
        assert 0.45 < low < 2 / 3 < high < 0.85  # Wilson's, by hand: 0.488 to 0.808
        assert set(found["answers"]) == {"policy", "plain"} and 0 < found["answers"]["plain"]["total"] < 30

    with_fakes(test, mirror=1.0)
    with_fakes(without_mirror)


async def without_mirror(up: Up, fake: Fake) -> None:
    assert (await status_of(up))["mirror"] is None


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
@pytest.mark.parametrize("width", [400, 1200])
def test_the_page_shows_the_numbers_in_a_browser(width: int, tmp_path: Path) -> None:
    async def test(up: Up, fake: Fake) -> None:
        stated = {"x-llm-d-slo-ttft-ms": "90000", "x-seqsched-slo-class": "<b>" + 61 * "w"}
        await asyncio.gather(
            *(
                up.ask(f"prompt {i} {5 + i}", temperature=0, headers=stated if i < 2 else None)
                for i in range(12)
            )
        )
        await copied(up)
        browser = await asyncio.create_subprocess_exec(
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"),
            *(f"--window-size={width},900", "--virtual-time-budget=3000", "--dump-dom", up.url),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        dom = (await browser.communicate())[0].decode()
        assert 'data-shown="yes"' in dom and "continuous:order=shortest-predicted" in dom
        assert dom.count("<circle") == 12 and "nobody waits" in dom and "0 / 4" in dom
        mirrored = re.search(r'<section id="mirrored"(.*?)</section>', dom, re.S)
        assert mirrored is not None and "hidden" not in mirrored[1].partition(">")[0]
        assert "<td>policy</td><td>12 of 12</td><td>75.8 to 100 %</td>" in mirrored[1]  # Wilson's
        assert "<td>copies</td>" in mirrored[1]
        assert "0 to come, 0 left out" in mirrored[1]
        bounded = re.search(r'<section id="bounded"(.*?)</section>', dom, re.S)
        assert bounded is not None and "hidden" not in bounded[1].partition(">")[0]
        assert "<td>all</td><td>2</td><td>2 (100 %)</td>" in bounded[1]
        assert f"<td>&lt;b&gt;{61 * 'w'}</td><td>2</td><td>2 (100 %)</td>" in bounded[1]

    with_fakes(test, mirror=1.0)


def test_a_body_that_never_comes_holds_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_S", 0.05)

    async def test(up: Up, fake: Fake) -> None:
        host, port = up.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert (await reader.readline()).split()[1] == b"408"
        writer.close()
        assert not fake.seen

    with_fakes(test)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_it_can_serve_https(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=localhost",
            ),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )

    async def go() -> None:
        async with listening(Fake()) as url, layer_before(url, ssl_certfile=cert, ssl_keyfile=key) as up:
            assert up.url.startswith("https://")
            trusting = ssl.create_default_context(cafile=str(cert))
            trusting.check_hostname = False
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"{up.url}/health", ssl=trusting) as response,
            ):
                assert response.status == 200

    asyncio.run(go())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ssl-keyfile", "key.pem"], "ssl_keyfile: key.pem has no certificate"),
        (["--ssl-certfile", "nowhere.pem"], "ssl_certfile: nowhere.pem cannot be used"),
    ],
)
def test_certificates_that_cannot_be_used_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("serve", "--upstream", "http://localhost:1", "--port", "0", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads(Path("docs/serve/grafana.json").read_text(encoding="utf-8"))
    text = Metrics().text().decode()
    defined = set(re.findall(r"^# TYPE (\S+)", text, re.M))
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"seqsched_\w+", target["expr"])
    }
    assert len(asked) > 15
    assert {name.removesuffix("_bucket") for name in asked} <= defined


def containers() -> tuple[dict[str, Any], dict[str, str]]:
    """The services of the example, and the Dockerfile's instructions by their first word."""
    compose = yaml.safe_load(Path("docs/serve/compose.yaml").read_text(encoding="utf-8"))
    lines = Path("docs/serve/Dockerfile").read_text(encoding="utf-8").splitlines()
    return compose, {word: rest for word, _, rest in (line.partition(" ") for line in lines)}


def test_the_example_of_containers_starts_the_layer_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    compose, docker = containers()
    service = compose["services"]["seqsched"]
    command = [*json.loads(docker["ENTRYPOINT"]), *shlex.split(service["command"])]
    assert command[:2] == ["seqsched", "serve"] and len(command) > 12
    # Every flag is known and every value may be: only the secret is not there.
    assert run(*command[1:]) == 2
    keys = command[command.index("--keys") + 1]
    assert f"{keys}: cannot be read" in capsys.readouterr().err
    assert keys == f"/run/secrets/{service['secrets'][0]}" and service["secrets"][0] in compose["secrets"]
    log = command[command.index("--log") + 1]
    assert any(log.startswith(volume.partition(":")[2] + "/") for volume in service["volumes"])
    upstream = command[command.index("--upstream") + 1]
    assert upstream == "http://vllm:8000" and "vllm" in service["depends_on"]


def test_the_example_of_containers_names_files_ports_and_extras_that_there_are() -> None:
    compose, docker = containers()
    for line in Path("docs/serve/Dockerfile").read_text(encoding="utf-8").splitlines():
        if line.startswith("COPY"):
            assert all(Path(name).exists() for name in line.split()[1:-1])
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (
                (Path("docs/serve") / source).exists() if source[0] == "." else source in compose["volumes"]
            )
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        built = service.get("build", {})
        assert not built or Path("docs/serve", built["context"], built["dockerfile"]).exists()
    port = str(ServeSettings().port)
    assert docker["EXPOSE"] == port
    assert compose["services"]["seqsched"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    watched = Path("docs/serve/prometheus.yml").read_text(encoding="utf-8")
    assert f"seqsched:{port}" in watched and "/run/secrets/scrape_key" in watched
    extras = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = set(re.findall(r"\[([a-z,]+)\]", docker["RUN"])[0].split(","))
    assert "serve" in asked and asked <= set(extras["optional-dependencies"])
