"""The table of metrics: a metric that is added to it appears wherever metrics are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plots import capacity, load, policies, style
from sim import simulate
from sim.cli import show
from sim.planning.slo import observe, parse_slo
from sim.results import metrics
from sim.results.batch_record import BatchRecord
from sim.results.ledger import Ledger, ReplicaUse
from sim.results.metric_kinds import STATISTICS, Latency, Metric
from sim.results.result import Result, make_result
from sim.results.session_metrics import SESSIONS
from sim.studies.load_curves import curve_keys
from traces.errors import InputError

PAGE = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text(encoding="utf-8")

DECODE = Latency(
    "decode",
    "decode",
    "Time of decoding",
    "From the first token of a request to its last.",
    lambda t: (t["finish_s"] - t["first_token_s"]) * 1e3,
)
LONGEST = Metric(
    "longest_prompt",
    "longest prompt",
    "tokens",
    "{:,}",
    "neither",
    "The longest prompt of all.",
    lambda run: int(run.requests["prompt_tokens"].max()),
)


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latency and a figure more than there are."""
    monkeypatch.setitem(metrics.LATENCIES, "decode", DECODE)
    monkeypatch.setattr(metrics, "EFFICIENCY", (*metrics.EFFICIENCY, LONGEST))


@pytest.fixture
def result(added: None, profile: Any) -> Result:
    return simulate("alpaca-vicuna", num_prompts=40, profile=profile, goodput={"decode": 1000})


def test_an_added_latency_is_in_summary_requests_and_goodput(result: Result) -> None:
    decode_ms = result.requests.e2el_ms - result.requests.ttft_ms
    assert result.requests.decode_ms.to_numpy() == pytest.approx(decode_ms.to_numpy())
    assert result.summary["p99_decode_ms"] == pytest.approx(decode_ms.quantile(0.99))
    good = (decode_ms <= 1000).sum()
    assert result.summary["request_goodput"] == pytest.approx(good / result.summary["duration"])


def test_an_added_figure_is_in_the_summary(result: Result) -> None:
    assert result.summary["longest_prompt"] == result.requests.prompt_tokens.max()


def test_an_added_latency_can_be_bounded_by_an_slo(result: Result) -> None:
    slo = parse_slo("decode_p90:5 attainment:0.5", {"decode": 1e9})
    value, share = observe(slo, result.columns, result.summary).values
    assert value > 0 and share == 1
    with pytest.raises(InputError, match="one of ttft, tpot, e2el, wait, decode"):
        parse_slo("decoding_p90:5")


def test_an_added_metric_has_a_heading_and_a_label(
    result: Result, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show.summary_table(result.summary)
    out = capsys.readouterr().out
    assert "p90_decode_ms" in out and "longest_prompt" in out
    monkeypatch.setattr(show, "HEADLINES", ("p99_decode_ms", "longest_prompt"))
    show.comparison_table({"one": result.summary}, {"one": 1.0})
    out = capsys.readouterr().out
    assert "decode s" in out and "longest" in out
    assert f"{result.summary['p99_decode_ms'] / 1e3:.2f}" in out


def test_an_added_latency_has_curves_and_axes(result: Result) -> None:
    import pandas as pd

    assert {"mean_decode_ms", "p99_decode_ms"} <= set(curve_keys())
    assert capacity.axis_label("decode_p99") == "Time of decoding,\np99 (ms)"
    _, (ax, other) = style.figure(8, 3, cols=2)
    load.curves(
        pd.DataFrame({"policy": "one", "request_rate": [1.0, 2.0], "seed": 0, "p99_decode_ms": 5.0}),
        ax,
        "p99_decode_ms",
    )
    policies.latency_cdf({"one": result}, other, "decode")
    assert ax.get_ylabel() == "p99 decode (s)" and other.get_xlabel() == "Time of decoding (s)"


def test_an_added_metric_is_in_the_page_of_definitions(added: None) -> None:
    page = metrics.markdown()
    assert "_decode_ms` | ms | less | Time of decoding (decode). From the first token" in page
    assert "| `longest_prompt` | tokens | neither | The longest prompt of all. |" in page


def test_the_page_of_definitions_is_up_to_date() -> None:
    assert metrics.markdown() in PAGE, "docs/metrics.md: put in what python -m sim.results.metrics prints"


def test_every_metric_is_described(profile: Any) -> None:
    summary = simulate("alpaca-vicuna", num_prompts=20, profile=profile).summary
    table, rest = (
        metrics.table(),
        {metric.key for metric in (*SESSIONS, *metrics.OWN_SLOS, *metrics.OF_SESSIONS)},
    )
    assert [key for key in summary if key in table] == [key for key in table if key not in rest]
    assert all(
        m.definition.endswith(".") and m.name and m.text(1.5 if "f" in m.form else 1) for m in table.values()
    )
    assert all(m.text(None) == "–" for m in table.values())


def test_a_latency_is_shown_in_its_unit() -> None:
    ttft, tpot = metrics.metric("mean_ttft_ms"), metrics.metric("p99_tpot_ms")
    assert (ttft.axis, ttft.text(2500.0), ttft.column_heading) == ("Mean TTFT (s)", "2.50", "mean\nTTFT s")
    assert (tpot.axis, tpot.text(25.0), tpot.column_heading) == ("p99 TPOT (ms)", "25.00", "p99\nTPOT ms")
    with pytest.raises(ValueError, match=r"metric \(speed\) must be one of duration, "):
        metrics.metric("speed")


def test_statistics_are_those_of_every_latency() -> None:
    assert [f"{s}_wait_ms" for s in STATISTICS] == [
        key for key in metrics.table() if key.endswith("_wait_ms") and "session" not in key
    ]


def summary_of(ledger: Ledger) -> dict[str, Any]:
    """Of requests with prompts of 10 tokens and answers of 4."""
    n = ledger.num_requests
    columns: dict[str, Any] = {"prompt_tokens": np.full(n, 10), "output_tokens": np.full(n, 4)}
    return dict(make_result(ledger, request_id=np.arange(n), priority=None, labels={}, **columns).summary)


def test_the_busy_share_is_of_all_replicas_and_the_kv_peak_of_the_fullest() -> None:
    uses = [ReplicaUse("", 100, 3, 2.0, 50, preemptions=1), ReplicaUse("", 100, 5, 4.0, 25, preemptions=2)]
    ledger = Ledger(2, [1.0, 2.0], replicas=uses)
    ledger.scheduled_s, ledger.first_token_s, ledger.finish_s = [1.0, 2.0], [3.0, 4.0], [5.0, 9.0]
    summary = summary_of(ledger)
    assert summary["gpu_busy_fraction"] == 0.375  # 2 and 4 of 8 s each
    assert summary["kv_peak_fraction"] == 0.5
    assert (summary["iterations"], summary["preemptions"]) == (8, 3)


def test_a_replica_that_is_never_idle_is_busy_all_the_time() -> None:
    """Its iterations, added one by one, may come to a little more than the run lasted."""
    ledger = Ledger(1, [0.0], replicas=[ReplicaUse("", 100, 3, 0.1 + 0.1 + 0.1)])
    ledger.scheduled_s, ledger.first_token_s, ledger.finish_s = [0.0], [0.1], [0.3]
    assert ledger.replicas[0].busy_s > 0.3
    assert summary_of(ledger)["gpu_busy_fraction"] == 1.0


def test_a_request_failed_at_first_where_its_answer_outgrew_its_prediction() -> None:
    """Not where it only lost its replica. All end in one batch, but for the last, which expires."""
    ledger = Ledger(5, [0.0] * 5)
    ledger.batches.append(BatchRecord("PaddedBatch", (0, 1, 2, 3), 4, 4, 0.0, 1.0, 4.0, 10, 1.0))
    ledger.scheduled_s, ledger.first_token_s = [0.0] * 5, [1.0] * 5
    ledger.finish_s, ledger.final_batch = [4.0] * 4 + [np.nan], [0] * 4 + [-1]
    ledger.reason = {4: "expired: too late"}
    # It lost its replica when it had begun; a batch before had been too short, and it went on from there; it
    # outgrew a prediction of one token, and lost its replica before it ran again; it went well; it expired
    # after it had outgrown such a prediction.
    ledger.attempts, ledger.failed_tokens, ledger.reroutes = [2, 2, 2, 1, 1], [0, 0, 1, 0, 1], {0: 1, 2: 1}
    assert summary_of(ledger)["failure_ratio"] == 0.6
