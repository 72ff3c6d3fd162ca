"""Whatever the command cannot use: one line on stderr and status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.command import refused

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--policy", "nonsense"), "nonsense"),
        (("--policy", "sequence:vbs=maybe"), "maybe"),
        (("--policy", "sequence:colour=red"), "colour"),
        (("--policy", "sequence:batch_size=0"), "batch_size: 0"),
        (("--policy", "sequence:margin=-1"), "-1"),
        (("--policy", "sequence:group_size"), "key=value"),
        (("--policy", "vanilla:batch_size=many"), "many"),
        (("--policy", "no_such_module:Class"), "no_such_module"),
        (("--predictor", "psychic"), "psychic"),
        (("--predictor", "noisy"), "sigma"),
        (("--predictor", "noisy:sigma=-1"), "-1"),
        (("--predictor", "constant:tokens=0"), "tokens: 0"),
        (("--predictor", "trace"), "predicted_tokens"),
        (("--predictor", "empirical:file=none.csv"), "none.csv"),
        (("--profile", "nothing"), "nothing"),
        (("--profile", "trace.csv"), "trace.csv"),
        (("--trace", "nowhere.csv"), "nowhere.csv"),
        (("--trace", "."), "directory"),
        (("--request-rate", "-1"), "-1"),
        (("--request-rate", "fast"), "fast"),
        (("--burstiness", "0"), "burstiness: 0"),
        (("--time-scale", "nan"), "nan"),
        (("--num-prompts", "0"), "num_prompts: 0"),
        (("--num-prompts", "4"), "4 is not between 1 and 3"),
        (("--sample-seed", "-1"), "sample_seed: -1"),
        (("--max-concurrency", "0"), "max_concurrency: 0"),
        (("--max-new-tokens", "0"), "max_new_tokens: 0"),
        (("--goodput", "speed:5"), "speed"),
        (("--goodput", "ttft:soon"), "soon"),
        (("--goodput", "ttft:-5"), "-5"),
        (("--goodput", "ttft:1", "ttft:2"), "ttft is given twice (1 and 2 ms)"),
        (("--num-prompts", "2.5"), "num_prompts: 2.5 is not a whole number"),
        (("--seed=1.7",), "seed: 1.7 is not a whole number"),
        (("--kv-blocks", "0"), "0"),
        (("--kv-tier", "cpu"), "kv_tier: 'cpu' of 'cpu' is not NAME:SIZE@RATE"),
        (("--kv-tier", "disk:1TiB@5GB/s"), "must name cpu, and behind it disk"),
        (("--kv-tier", "cpu:1GiB@5GB/s,cpu:1GiB@5GB/s"), "each once"),
        (("--kv-tier", "cpu:0GiB@5GB/s"), "'0GiB' in 'cpu:0GiB@5GB/s' is not above 0"),
        (("--kv-tier", f"cpu:1GiB@0.{'0' * 320}1B/s"), "1B' in 'cpu:1GiB@0.000"),
        (("--kv-tier", "cpu:1XB@5GB/s"), "'1XB' in 'cpu:1XB@5GB/s' is not a number of B, kB"),
        (("--kv-tier", "cpu:1MiB@5GB/s"), "holds 2 tokens of 524,288 bytes, fewer than the 16 of a block"),
        (
            ("--kv-tier", "cpu:64GiB@50GB/s", "--policy", "sequence"),
            "kv_tier: policy sequence keeps no blocks",
        ),
        (("--kv-tier", "cpu:64GiB@50GB/s", "--policy", "continuous"), "needs prefix_caching=on, not own"),
        (("--seed", "-1"), "seed: -1"),
        (("--replicas", "0"), "replicas: 0"),
        (("--replicas", "100001"), "100000"),
        (("--router", "fastest"), "fastest"),
        (("--fleet", "h200-vicuna-7b*many"), "h200-vicuna-7b*many"),
        (("--fleet", "nothing*2"), "nothing"),
        (("--fleet", "h200-vicuna-7b*100000;h200-vicuna-7b"), "more than 100000 replicas"),
        (("--fleet", "h200-vicuna-7b*2;"), "fleet: '' is not NAME*COUNT"),
        (("--fleet", "h200-vicuna-7b*2", "--replicas", "3"), "replicas: 3, but the fleet"),
        (("--mtbf-s", "5"), "mttr_s"),
        (("--mtbf-s=-5", "--mttr-s=1"), "mtbf_s: -5"),
        (("--failures", "none.csv"), "none.csv"),
        (("--failures", "trace.csv"), "replica"),
        (("--startup-s", "-1"), "startup_s: -1"),
        (("--save-replicas", "no/such/folder/r.csv"), "no/such/folder"),
        (("--colour", "red"), "colour"),
        (("--config", "missing.toml"), "missing.toml"),
        (("--save-result", "no/such/folder/r.json"), "no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: tuple[str, ...], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    trace = () if arguments[0] == "--trace" else ("--trace", "trace.csv")
    assert said in refused(capsys, "simulate", *trace, *arguments, "--json")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("runs", "command", "flags"),
    [
        (
            "sim.simulation.simulate",
            ["simulate"],
            ["--save-result", "--save-requests", "--save-replicas", "--save-decisions", "--perfetto"],
        ),
        (
            "sim.planning.plan.plan",
            ["plan", "--slo", "ttft_p99:2000"],
            ["--save-result", "--report", "--state"],
        ),
        ("sim.sweeps.sweep.sweep", ["sweep", "grid.toml"], ["--out"]),
    ],
)
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none/x.csv", "there is no folder none"),
        ("taken", "is a directory"),
        ("trace.csv/x.csv", "no folder"),
    ],
)
def test_where_no_file_can_be_is_refused_before_anything_runs(
    runs: str,
    command: list[str],
    flags: list[str],
    path: str,
    said: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "taken").mkdir()
    monkeypatch.setattr(runs, lambda *_, **__: pytest.fail("it ran"))
    for flag in flags:
        assert said in refused(capsys, *command, flag, path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "--policies", "vanilla;vanilla"),
        ("compare", "--policies", ";"),
        ("compare", "--policies", "vanilla;nonsense", "--out", "o"),
        ("compare", "--out", "trace.csv"),
        ("profile", "show", "nothing"),
        ("calibrate", "--steps", "trace.csv", "--out", "p.json"),
        ("calibrate", "--steps", "none.csv", "--out", "p.json"),
        ("trace", "inspect", "nowhere.csv"),
        ("trace", "fetch", "nothing"),
        ("trace", "convert", "trace.csv", "t.xlsx"),
        ("trace", "generate", "alpaca-vicuna:colour=red", "--out", "t.csv"),
        ("trace", "generate", "--num-prompts", "0", "--out", "t.csv"),
        ("trace", "generate", "--burstiness", "0.5", "--out", "t.csv"),
        ("plot", "variance", "--trace", "trace.csv"),
        ("nonsense",),
    ],
)
def test_other_commands_refuse_in_one_line_too(
    arguments: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, *arguments)
    assert [path.name for path in folder.iterdir()] == ["trace.csv"]


@pytest.mark.parametrize("arguments", [["validate"], ["calibrate", "--device", "cpu", "--out", "x.json"]])
def test_a_real_model_without_torch_is_one_line(folder: Path, arguments: list[str]) -> None:
    code = f"import sys; sys.modules['torch'] = None; from sim.cli import main; main({arguments})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 2
    assert done.stderr == 'seqsched: this needs torch: pip install "seqsched[real]"\n'


@pytest.mark.parametrize("script", ["perception", "quality", "validate", "calibrate", "tune"])
def test_every_script_without_what_it_needs_is_one_line(folder: Path, script: str) -> None:
    absent = (
        "import sys\nfor name in ('torch', 'transformers', 'accelerate', 'peft'): sys.modules[name] = None\n"
    )
    (folder / "sitecustomize.py").write_text(absent, encoding="utf-8")
    out = ["--out", "out.json"] if script in ("calibrate", "tune") else []
    done = subprocess.run(
        [sys.executable, "-m", f"real.{script}", *out],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert done.returncode == 2
    needed = "peft" if script == "tune" else "torch"
    assert done.stderr == f'seqsched: this needs {needed}: pip install "seqsched[real]"\n'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("simulate", "--set", "kv_bit=8"), "unknown key 'kv_bit'; the known keys are"),
        (("simulate", "--set", "kv_bit=8"), "did you mean kv_bits?"),
        (("simulate", "--profile", "h200-vicuna"), "did you mean h200-vicuna-7b or h200-vicuna-7b-trtllm?"),
        (("plan", "--request-rate", "5", "--slo", "ttft_p99:9", "--price", "h200:3"), "did you mean H200?"),
        (("simulate", "--router", "random", "extra"), "'extra' is too much: no flag before it takes"),
        (
            ("compare", "--policies", "vanilla", "continuous"),
            'several --policies or --profiles are one value, "A;B"',
        ),
    ],
)
def test_what_is_misspelt_or_too_much_is_named(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert says in refused(capsys, *arguments)
