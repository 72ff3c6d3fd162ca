"""Every key that docs/trust.md names is known, and its table of what-ifs is that of the help."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest

from sim.hardware import load
from sim.hardware.catalogue import names
from sim.hardware.overrides import HELP, HELP_IN_FULL, WHAT_IFS, field_names, markdown
from sim.hardware.roofline import estimate
from sim.schedulers.continuous_options import ContinuousOptions
from tests.docs.pages import ROOT, Page

PAGE = Page(ROOT / "docs" / "trust.md")


def test_the_page_explains_every_what_if_as_the_help_does() -> None:
    assert markdown() in PAGE.text, f"docs/trust.md: put in place of its table of keys\n{markdown()}"
    assert all(f"{key}={what.value}" in HELP_IN_FULL and key in HELP for key, what in WHAT_IFS.items())


def test_every_key_of_the_page_is_known() -> None:
    keys = set(re.findall(r"`([a-z_.]+)=[^`]*`", PAGE.text))
    keys -= {"set"}  # the keyword of the Python call
    keys -= {option.name for option in fields(ContinuousOptions)}
    assert keys <= {*WHAT_IFS, *field_names(load("h200-vicuna-7b"))}


def test_the_errors_of_a_roofline_are_those_against_the_composed_profiles() -> None:
    rows = re.findall(r"^\| (A100-80GB|H100|H200) \| (sglang|trtllm) \| (.*) \|$", PAGE.text, re.MULTILINE)
    composed = {
        (p.gpu.name, p.engine.split("-")[0]): p.step_cost
        for p in map(load, names())
        if p.gpu and "vicuna-7b" in p.name and p.provenance.kind == "composed from measured kernels"
    }
    assert {(gpu, engine) for gpu, engine, _ in rows} == set(composed) and len(rows) == 6
    for gpu, engine, cells in rows:
        guess, made = estimate("vicuna-7b", gpu).step_cost, composed[gpu, engine]
        errors = [guess.decode_s(n, 512 * n) / made.decode_s(n, 512 * n) - 1 for n in (1, 16, 64, 256)]
        errors += [guess.padded_prefill_s(1, t) / made.padded_prefill_s(1, t) - 1 for t in (512, 2048)]
        assert cells.split(" | ") == [f"{100 * e:+.0f} %".replace("-", "−") for e in errors]


DATA = Path(os.environ.get("SEQSCHED_DATA", "/nowhere"))
LOG, STEPS = "rtx4090-llama-3.1-8b-vllm.csv", "rtx4090-llama-3.1-8b-steps"


@pytest.mark.skipif(not (DATA / LOG).exists(), reason=f"SEQSCHED_DATA names no folder with {LOG}")
def test_what_uneven_contexts_uncover_is_as_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table of the log's errors, and the output of the Python below it."""
    import pandas as pd

    from sim import simulate
    from sim.hardware import regime_fit
    from sim.hardware.fitting import fit, read_steps
    from traces import load as load_trace

    monkeypatch.setattr(regime_fit, "NUM_FOLDS", 2)  # the terms come out the same, in a fifth of the time
    for name, suffix in (("even", ""), ("uneven", "-skew")):
        made, _ = fit(read_steps(DATA / f"{STEPS}{suffix}.csv"), name, async_scheduling=True)
        made.save(tmp_path / f"{name}.json")
    monkeypatch.chdir(tmp_path)
    (tmp_path / LOG).symlink_to(DATA / LOG)
    log = pd.read_csv(LOG)
    end_s = (log.arrival_s + log.e2el_ms / 1e3).max()
    measured = (log.output_tokens.sum() / end_s, *(log[f"{m}_ms"].mean() for m in ("ttft", "tpot", "e2el")))
    figures = ("output_throughput", "mean_ttft_ms", "mean_tpot_ms", "mean_e2el_ms")
    rows = re.findall(r"^\| `(\w+\.json)`(?:, `(.*?)`)? \| (.*) \|$", PAGE.text, re.MULTILINE)
    assert len(rows) == 4
    for profile, option, cells in rows:
        policy = ",".join(
            ["continuous:max_num_seqs=256", "max_num_batched_tokens=2048", *filter(None, [option])]
        )
        summary = simulate(load_trace(LOG), profile=profile, kv_blocks=2588, policy=policy).summary
        errors = [summary[figure] / m - 1 for figure, m in zip(figures, measured, strict=True)]
        printed = [float(cell.replace("−", "-").rstrip(" %")) for cell in cells.split(" | ")]
        assert [100 * e for e in errors] == pytest.approx(printed, abs=0.15)
    code, output = re.search(
        r"```python\n(from dataclasses.*?)```\n\n```\n(even.*?)```", PAGE.text, re.S
    ).groups()
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out == output
