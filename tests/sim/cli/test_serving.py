"""`--server`: a server's command in place of policy and profile; flags win, and notes go to stderr."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from sim.cli import main

SERVER = "vllm serve some/model --max-num-seqs 4 --num-gpu-blocks-override 300 --colour blue"

SERVER_POLICY = "continuous:max_num_seqs=4,prefix_caching=on,max_num_batched_tokens=2048"


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def summary(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    try:
        main(["simulate", "--json", "--num-prompts", "20", *words])
    except SystemExit as ended:
        assert not ended.code
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_a_server_gives_the_policy_and_flags_win(capsys: pytest.CaptureFixture[str]) -> None:
    profile = ("--profile", "h200-vicuna-7b")
    found = summary(capsys, "--server", SERVER, *profile)
    assert found["policy"] == SERVER_POLICY
    assert found["profile"] == "h200-vicuna-7b"
    assert summary(capsys, "--server", SERVER, *profile, "--policy", "vanilla")["policy"] == "vanilla"
    assert summary(capsys)["policy"] == "sequence"


def test_a_flag_wins_that_says_what_is_the_default_anyway(capsys: pytest.CaptureFixture[str]) -> None:
    default = "a100-80gb-vicuna-7b-transformers"
    copies = ("--server", f"{SERVER} -dp 3", "--gpu", "h200", "--profile", default)
    assert (found := summary(capsys, *copies))["profile"] == default and found["replicas"] == 3
    assert summary(capsys, *copies, "--replicas", "1")["replicas"] == 1
    question = ["plan", "--json", "--slo", "ttft_p99:60000", "--request-rate", "1", "--num-requests", "60"]
    few = ["--num-seeds", "3", "--max-seeds", "3", "--max-requests", "60", "--profiles", "h200-vicuna-7b"]
    for given, policy in (([], SERVER_POLICY), (["--policies", "continuous"], "continuous")):
        with suppress(SystemExit):
            main([*question, *few, "--server", SERVER, *given])
        assert json.loads(capsys.readouterr().out)["question"]["policies"] == [policy]


def test_tokens_of_memory_stay_where_a_flag_says_the_size_of_blocks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = "sglang serve --model-path m --max-total-tokens 640"
    given = ("--profile", "h200-vicuna-7b", "--trace", "fixed", "--max-new-tokens", "64", "--server", server)
    found = summary(capsys, *given, "--block-size", "64")
    assert found == summary(capsys, *given, "--block-size", "64", "--kv-blocks", "10")


def test_the_size_of_a_servers_blocks_acts_and_a_flag_wins(capsys: pytest.CaptureFixture[str]) -> None:
    few = ("--profile", "h200-vicuna-7b", "--trace", "fixed:prompt_tokens=10,output_tokens=10")
    server = "vllm serve some/model --num-gpu-blocks-override 9 --block-size"
    in_large = summary(capsys, *few, "--server", f"{server} 64")
    assert in_large == summary(capsys, *few, "--server", f"{server} 16", "--block-size", "64")
    in_small = summary(capsys, *few, "--server", f"{server} 64", "--block-size", "16")
    assert in_small == summary(capsys, *few, "--server", f"{server} 16")
    assert in_small["duration"] > in_large["duration"]


def test_what_has_no_effect_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    main(["simulate", "--num-prompts", "5", "--server", SERVER, "--profile", "h200-vicuna-7b"])
    assert "seqsched: server: --colour blue: not understood\n" in capsys.readouterr().err


def test_a_server_without_a_profile_and_a_gpu_without_a_server_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("simulate", "--server", SERVER) == 2
    assert "--gpu GPU" in capsys.readouterr().err
    for gpu, server, what in (
        ("rtx-4090", "vllm serve llama-3.1-8b", "rtx-4090"),
        ("h200", "vllm serve llama-3.1-8b --quantization awq", "weights in awq"),
    ):
        assert run("simulate", "--server", server, "--gpu", gpu) == 2
        said = capsys.readouterr().err
        assert (
            f"there are no measured kernels of {what}: --profile is needed" in said and said.count("\n") == 1
        )
    assert run("simulate", "--gpu", "h200") == 2
    assert "gpu: 'h200' needs --server" in capsys.readouterr().err


def test_a_file_compares_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "sglang.yaml"
    config.write_text("model-path: some/model\nmax-running-requests: 64\nenable-mixed-chunk: true\n")
    profile = ("--profile", "h200-vicuna-7b")
    main(["compare", "--json", "--num-prompts", "20", "--server", str(config), *profile])
    names = list(json.loads(capsys.readouterr().out))
    assert all("rules=sglang,max_num_seqs=64,mixed_chunk=on" in name for name in names)
    assert [name.endswith("order=shortest-predicted") for name in names] == [False, True]
    plan = ["plan", "--json", "--slo", "ttft_p99:5000", "--request-rate", "2", "--num-requests", "60"]
    few = ["--num-seeds", "3", "--max-seeds", "3", "--max-requests", "60", "--profiles", "h200-vicuna-7b"]
    try:
        main([*plan, *few, "--server", str(config)])
    except SystemExit as ended:
        assert ended.code in (0, 1)
    assert "rules=sglang" in capsys.readouterr().out


def test_a_sweep_takes_from_a_server_what_its_file_leaves_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = 'trace = "fixed"\nnum_prompts = 20\n'
    Path("a.toml").write_text(few + 'profile = "h200-vicuna-7b"\n[grid]\nseeds = [0, 1]\n')
    main(["sweep", "a.toml", "--server", SERVER, "--jobs", "1", "--json"])
    printed = capsys.readouterr()
    assert "colour blue: not understood" in printed.err
    for row in json.loads(printed.out)["rows"]:
        assert row["policy"].startswith("continuous:max_num_seqs=4,")
        assert (row["profile"], row["kv_blocks"]) == ("h200-vicuna-7b", 300)
    Path("b.toml").write_text(few + 'fleet = "h200-vicuna-7b*3"\n[grid]\npolicies = ["vanilla"]\n')
    main(["sweep", "b.toml", "--server", SERVER, "--jobs", "1", "--json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["policy"], row["replicas"]) == ("vanilla", 3)
    Path("c.toml").write_text(few + "[grid]\nseeds = [0]\n")
    assert run("sweep", "c.toml", "--server", SERVER) == 2
    assert "--gpu GPU, one with tables of kernels or --profile is needed" in capsys.readouterr().err
    assert run("sweep", "c.toml", "--gpu", "h200") == 2
    assert "gpu: 'h200' needs --server" in capsys.readouterr().err
    assert not Path("c.csv").exists()
    Path("d.toml").write_text(few + 'profile = "h200-vicuna-7b"\n[grid]\nblock_size = [1, 64]\n')
    sglang = ("--server", "sglang serve --model-path m --max-total-tokens 6400", "--jobs", "1")
    assert run("sweep", "d.toml", *sglang) == 2
    assert "d.toml: block_size needs kv_blocks beside it" in capsys.readouterr().err
    main(["sweep", "d.toml", "--server", SERVER, "--jobs", "1", "--json"])
    assert [row["block_size"] for row in json.loads(capsys.readouterr().out)["rows"]] == [1, 64]
