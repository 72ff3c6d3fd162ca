"""What a server's command or file comes to: policy, profile, and a note on everything that has no effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.hardware import kernels
from sim.hardware.hugging_face import config_of
from sim.hardware.model_shape import MODELS
from sim.scenario.policies import make_scheduler
from sim.servers.command import ENGINES
from sim.servers.server import Server, known_model, server
from sim.work import Limits
from traces.errors import InputError

VLLM = "vllm serve meta-llama/Llama-3.1-8B-Instruct"


def options(read: Server) -> dict[str, str]:
    name, _, rest = read.policy.partition(":")
    assert name == "continuous"
    return dict(part.split("=") for part in rest.split(","))


def test_a_command_of_vllm_gives_policy_limits_parallelism_and_formats() -> None:
    read = server(
        f"{VLLM} --max-num-seqs 128 --max_num_batched_tokens=4096 -tp 2 --kv-cache-dtype fp8_e4m3 "
        "--quantization fp8 --gpu-memory-utilization 0.95 --scheduling-policy priority "
        "--no-enable-prefix-caching --async-scheduling --num-gpu-blocks-override 500 --block-size 32",
        gpu="H200",
    )
    assert options(read) == {
        "max_num_seqs": "128",
        "max_num_batched_tokens": "4096",
        "order": "priority",
        "prefix_caching": "off",
        "async_scheduling": "on",
    }
    assert read.profile == "llama-3.1-8b@h200,engine=vllm,tp=2,dtype=fp8,kv=fp8,utilization=0.95"
    assert (read.kv_blocks, read.block_size, read.replicas) == (500, 32, 1)
    assert read.settings.keys() == {"policy", "profile", "kv_blocks", "block_size"}


@pytest.mark.parametrize(
    ("gpu", "tokens", "seqs"),
    [("h100", "8192", "1024"), ("a100-80gb", "2048", "256"), ("l40s", "2048", "256")],
)
def test_defaults_of_vllm_depend_on_the_gpu(gpu: str, tokens: str, seqs: str) -> None:
    chosen = options(server(VLLM, gpu=gpu))
    assert (chosen["max_num_batched_tokens"], chosen["max_num_seqs"]) == (tokens, seqs)


@pytest.mark.parametrize(
    ("gpu", "tokens"), [("rtx-4090", "2048"), ("l40s", "4096"), ("h200", "8192"), (None, "8192")]
)
def test_defaults_of_sglang_depend_on_the_gpu(gpu: str | None, tokens: str) -> None:
    assert options(server("sglang serve --model-path x", gpu=gpu))["chunked_prefill_size"] == tokens


def test_a_command_of_sglang() -> None:
    read = server(
        "python3 -m sglang.launch_server --model-path Qwen/Qwen3-32B --tp 4 --dp-size 2 --enable-mixed-chunk "
        "--chunked-prefill-size -1 --schedule-conservativeness 0.3 --max-total-tokens 160000",
        gpu="h100",
    )
    chosen = options(read)
    assert (chosen["rules"], chosen["mixed_chunk"], chosen["chunked"]) == ("sglang", "on", "off")
    assert chosen["schedule_conservativeness"] == "0.3"
    assert read.profile == "Qwen/Qwen3-32B@h100,engine=sglang,tp=4,kv=bf16"
    assert (read.kv_blocks, read.block_size, read.replicas) == (160_000, 1, 2)


@pytest.mark.parametrize(
    ("command", "size"),
    [
        ("vllm serve x", 16),
        ("vllm serve x --block-size 128", 128),
        ("sglang serve --model-path x", 1),
        ("sglang serve --model-path x --page-size 64", 64),
        ("sglang serve --model-path x --attention-backend trtllm_mha", 64),
        ("trtllm-serve x", 32),
    ],
)
def test_blocks_are_those_of_the_engine_or_of_its_flag(command: str, size: int) -> None:
    assert server(command).block_size == size


def test_blocks_of_tensorrt_llm_are_those_of_its_file(tmp_path: Path) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text("kv_cache_config:\n  tokens_per_block: 64\n  max_tokens: 64000\n")
    read = server(f"trtllm-serve x --config {extra}")
    assert (read.kv_blocks, read.block_size) == (1000, 64)


def test_a_file_of_tensorrt_llm_wins_over_its_command_and_a_command_of_vllm_over_its_file(
    tmp_path: Path,
) -> None:
    extra = tmp_path / "extra.yaml"
    extra.write_text(
        "max_num_tokens: 16384\nenable_chunked_prefill: true\nkv_cache_config:\n  dtype: fp8\n"
        "  free_gpu_memory_fraction: 0.8\nscheduler_config:\n  capacity_scheduler_policy: MAX_UTILIZATION\n"
        "batch_wait_timeout_iters: 40\nbatch_wait_max_tokens_ratio: 0.8\n"
    )
    command = f"trtllm-serve llama-3.1-8b --max_num_tokens 4096 --extra_llm_api_options {extra}"
    read = server(command, gpu="h100")
    chosen = options(read)
    assert chosen["max_num_batched_tokens"] == "16384"
    assert chosen["capacity_scheduler_policy"] == "max_utilization"
    assert (chosen["batch_wait_timeout_iters"], chosen["batch_wait_max_tokens_ratio"]) == ("40", "0.8")
    assert chosen["chunked"] == "on"
    assert read.profile == "llama-3.1-8b@h100,engine=trtllm,tp=1,kv=fp8,utilization=0.8"
    config = tmp_path / "vllm.yaml"
    config.write_text("max-num-seqs: 64\ntensor-parallel-size: 2\nenable-prefix-caching: false\n")
    chosen = options(server(f"{VLLM} --config {config} --max-num-seqs 32"))
    assert (chosen["max_num_seqs"], chosen["prefix_caching"]) == ("32", "off")


@pytest.mark.parametrize(("named", "is_lpm"), [("lpm", True), ("dfs-weight", False)])
def test_sglangs_orders_by_cache_go_by_vllms_rules(named: str, is_lpm: bool) -> None:
    command = f"sglang serve --model-path x --schedule-policy {named} --max-running-requests 64"
    read = server(f"{command} --enable-mixed-chunk", gpu="h100")
    assert options(read) == {
        "rules": "vllm",
        "max_num_seqs": "64",
        "max_num_batched_tokens": "8192",
        "prefix_caching": "on",
        "order": "longest-prefix-match",
    }
    make_scheduler(read.policy, Limits(4096, 16))
    notes = "\n".join(read.notes)
    assert f"--schedule-policy {named}: " in notes and "by vLLM's rules" in notes
    assert ("the nearest that is modelled" in notes) != is_lpm
    assert f"--mixed-chunk: not beside --schedule-policy {named}" in notes
    whole = server(f"{command} --chunked-prefill-size -1")
    assert options(whole)["max_num_batched_tokens"] == "16384"
    assert "--chunked-prefill-size: prompts of more than 16384 tokens are split" in whole.notes
    without = server(f"{command} --disable-radix-cache")
    assert options(without)["rules"] == "sglang" and "order" not in options(without)
    assert f"--schedule-policy {named}: with --disable-radix-cache it is fcfs" in without.notes
    assert not any("the radix cache is not modelled" in note for note in without.notes)


def test_what_sglangs_cache_would_find_is_said_not_to_be_modelled() -> None:
    said = "the radix cache is not modelled: prompts that begin alike are computed again"
    command = "sglang serve --model-path x"
    assert said in server(command).notes and said not in server(f"{command} --disable-radix-cache").notes


def test_a_file_alone_tells_its_engine_by_its_keys(tmp_path: Path) -> None:
    yaml = tmp_path / "server.yaml"
    yaml.write_text("model-path: x\nmem-fraction-static: 0.8\n")
    assert server(str(yaml)).engine == "sglang"
    content = tmp_path / "server.json"
    content.write_text(json.dumps({"model": "x", "max_num_seqs": 3, "gpu_memory_utilization": 0.8}))
    assert (server(str(content)).engine, options(server(str(content)))["max_num_seqs"]) == ("vllm", "3")
    yaml.write_text("colour: blue\n")
    with pytest.raises(InputError, match="do not tell vllm from sglang from trtllm"):
        server(str(yaml))


def test_every_flag_without_effect_and_every_unknown_one_is_said() -> None:
    notes = server(f"{VLLM} --port 8000 --max-num-sek 3 --trust-remote-code --max-model-len 4096").notes
    assert notes == (
        "--port: understood, without effect here: it changes what is served, not when",
        "--max-num-sek 3: not understood; did you mean max-num-seqs?",
        "--trust-remote-code: understood, without effect here: it changes what is served, not when",
        "without a GPU: at most 2048 tokens and 256 requests in an iteration, as on small ones",
        "requests of more than 4096 tokens are served here, not refused",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ollama serve x", "neither a file"),
        ("vllm serve 'x", "No closing quotation"),
        ("vllm serve a b", "'b' belongs to no flag"),
        ("vllm serve a ''", "'' belongs to no flag"),
        (f"{VLLM} \u2014max-num-seqs 64", "begins with no hyphen; did you mean --max-num-seqs"),
        (f"{VLLM} --port 8000 \u2013-max-num-seqs=64", "did you mean --max-num-seqs=64"),
        ("vllm serve \u2014max-num-seqs 64 --model a", "did you mean --max-num-seqs"),
        (
            f"{VLLM} --scheduling-policy gittins",
            "--scheduling-policy: 'gittins' is not one of fcfs, priority",
        ),
        (f"{VLLM} --max-num-seqs", "--max-num-seqs needs a value"),
        (f"{VLLM} --max-num-seqs many", "--max-num-seqs: 'many' is not a whole number"),
        (f"{VLLM} -tp 2 --tensor-parallel-size 4", "--tensor-parallel-size is given twice"),
        (f"{VLLM} --block-size 0", "blocks of 0 tokens are not between 1 and"),
        (f"{VLLM} -dcp 2", "2 parts of a context are not modelled"),
        (f"{VLLM} --max-num-seqs 2k", "'2k' is not a whole number"),
        (f"{VLLM} --max-num-batched-tokens 8.5K", "'8.5K' is not a whole number"),
        (f"{VLLM} -pp 2", "2 pipeline stages are not modelled"),
        (
            f"{VLLM} --max-num-seqs 512 --max-num-batched-tokens 256",
            "512 requests at a time exceed 256 tokens",
        ),
        (
            f"{VLLM} --no-enable-chunked-prefill --max-num-batched-tokens 2048 --max-model-len 4096",
            "prompts of up to 4096 tokens exceed 2048",
        ),
        ("sglang serve --model-path x --schedule-policy lof", "'lof' is not modelled"),
        ("no/such/file.yaml", "No such file"),
        (f"{VLLM} --enable-prefix-caching=perhaps", "neither true nor false"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        server(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("gpu", kernels.SYSTEMS)
def test_defaults_of_every_gpu_need_no_tables(gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "installed", lambda: None)
    read = server("vllm serve some/model", gpu=gpu)
    is_small = gpu in ("a100-80gb", "l40s")
    assert options(read)["max_num_batched_tokens"] == ("2048" if is_small else "8192")


def test_an_unknown_gpu_is_refused() -> None:
    with pytest.raises(InputError, match="gpu: 'h900'"):
        server(VLLM, gpu="h900")


@pytest.mark.parametrize(
    ("content", "message"), [("- a\n- b\n", "not a list"), ("a: [1\n", "not YAML"), ("", "not a NoneType")]
)
def test_a_file_that_is_no_table_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "server.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        server(str(path))


@pytest.mark.parametrize("end", ["\\\n", "\\\r\n", "\\  \n", "`\n", "`\r\n", "^\r\n", "\r\n", "\n"])
def test_a_command_goes_on_in_the_next_line(end: str) -> None:
    read = server(f"{VLLM} {end}  --max-num-seqs 64 {end}  --block-size 32 {end}", gpu="h200")
    assert options(read)["max_num_seqs"] == "64" and read.block_size == 32 and not read.notes


def test_models_are_known_by_their_usual_names() -> None:
    assert known_model("meta-llama/Meta-Llama-3.1-70B-Instruct") == "llama-3.1-70b"
    assert known_model("nvidia/Llama-3.1-8B-Instruct-FP8") == "llama-3.1-8b"
    assert known_model("lmsys/vicuna-7b-v1.5") == "vicuna-7b"
    assert known_model("Qwen/Qwen3-32B") == "Qwen/Qwen3-32B"


def test_attention_in_data_parallel_is_part_of_the_deployment_and_no_replica() -> None:
    command = "sglang serve --model-path llama-3.1-70b --tp 8 --dp 4 --enable-dp-attention"
    read = server(command, gpu="h200")
    assert read.profile == "llama-3.1-70b@h200,engine=sglang,tp=8,dp_attention=4,kv=bf16"
    assert read.replicas == 1


def test_a_name_says_the_format_where_another_model_stands_for_it() -> None:
    read = server("vllm serve nvidia/Llama-3.1-8B-Instruct-FP8 --dtype bfloat16", gpu="h200")
    assert read.profile == "llama-3.1-8b@h200,engine=vllm,tp=1,dtype=fp8,kv=bf16"
    assert server("vllm serve Qwen/Qwen3-32B-FP8", gpu="h200").profile == (
        "Qwen/Qwen3-32B-FP8@h200,engine=vllm,tp=1,kv=bf16"
    )


def test_copies_that_share_experts_are_one_replica_with_the_limits_of_all(tmp_path: Path) -> None:
    command = "vllm serve some/model --data-parallel-size 4 --tensor-parallel-size 2 --max-num-seqs 64"
    read = server(f"{command} --enable-expert-parallel --num-gpu-blocks-override 100", gpu="h200")
    assert read.profile == "some/model@h200,engine=vllm,tp=8,ep=8,dp_attention=4,kv=bf16"
    assert (read.replicas, read.kv_blocks) == (1, 400)
    assert (options(read)["max_num_seqs"], options(read)["max_num_batched_tokens"]) == ("256", "32768")
    apart = server(command, gpu="h200")
    assert (apart.replicas, options(apart)["max_num_seqs"]) == (4, "64")
    dense = server(f"{VLLM} --data-parallel-size 2 --enable-expert-parallel", gpu="h200")
    assert (dense.replicas, dense.profile) == (2, "llama-3.1-8b@h200,engine=vllm,tp=1,kv=bf16")
    assert "--enable-expert-parallel: the model has no experts" in dense.notes
    extra = tmp_path / "extra.yaml"
    extra.write_text("enable_attention_dp: true\nkv_cache_config:\n  max_tokens: 3200\n")
    read = server(f"trtllm-serve m --tp_size 4 --max_batch_size 8 --config {extra}", gpu="h200")
    assert (options(read)["max_num_seqs"], options(read)["max_num_batched_tokens"]) == ("32", "32768")
    assert read.kv_blocks == 400


def test_quantization_names_what_a_quantised_checkpoint_is(tmp_path: Path) -> None:
    for said, profile in (
        (
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            f"{tmp_path}@h200,engine=vllm,tp=1,kv=bf16",
        ),
        (None, f"{tmp_path}@h200,engine=vllm,tp=1,dtype=fp8,kv=bf16"),
    ):
        config = config_of(MODELS["llama-3.1-8b"]) | {"quantization_config": said}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert server(f"vllm serve {tmp_path} --quantization fp8", gpu="h200").profile == profile
    read = server(f"{VLLM} --quantization awq", gpu="h200")
    assert read.profile is None
    assert "no measured kernels of weights in awq: a profile has to be given" in read.notes


@pytest.mark.parametrize(
    "command",
    [
        f"/usr/bin/{VLLM} --max-num-seqs 7",
        f"CUDA_VISIBLE_DEVICES=0 exec {VLLM} \\\n  --max-num-seqs 7  # few\n",
        f"{VLLM} --max-num-seqs 7 > log.txt 2>&1 &",
        f"{VLLM} --max-num-seqs 7; echo ended",
        f"bash -lc '{VLLM} --max-num-seqs 7'",
        "docker run --gpus all -v a:b -p 8000:8000 vllm/vllm-openai:v0.11.0 --model m --max-num-seqs 7",
        f"docker run --gpus all image {VLLM} --max-num-seqs 7",
        f"{VLLM} -O3 --max-num-seqs 7 --lora-modules a=b c=d --cuda-graph-sizes 1 2 4",
        f"{VLLM} --max-num-seqs 7 --middleware a --middleware b --compilation-config.level=3",
    ],
)
def test_a_command_is_found_in_what_a_shell_or_a_container_is_told(command: str) -> None:
    read = server(command)
    assert (read.engine, options(read)["max_num_seqs"]) == ("vllm", "7")
    assert not any("not understood" in note for note in read.notes)


def test_variables_of_an_engine_are_said() -> None:
    for command in (f"VLLM_USE_V1=0 HF_TOKEN=x {VLLM}", f"docker run -e VLLM_USE_V1=0 i {VLLM}"):
        assert server(command).notes[0] == "VLLM_USE_V1=0: not understood"


@pytest.mark.parametrize(
    ("value", "tokens"),
    [("8192", "8192"), ("8k", "8000"), ("8K", "8192"), ("25.6k", "25600"), ("1m", "1000000")],
)
def test_numbers_of_tokens_as_vllm_reads_them(value: str, tokens: str) -> None:
    assert options(server(f"{VLLM} --max-num-batched-tokens {value}"))["max_num_batched_tokens"] == tokens
    assert server(f"{VLLM} --max-model-len auto").notes == server(VLLM).notes


@pytest.mark.parametrize(
    ("key", "value", "chosen"),
    [
        ("no-enable-prefix-caching", "true", "off"),
        ("no_enable_prefix_caching", "false", "on"),
        ("enable-prefix-caching", "false", "off"),
        ("enable-prefix-caching", "true", "on"),
    ],
)
def test_a_switch_with_no_before_it_says_the_opposite_in_files_too(
    key: str, value: str, chosen: str, tmp_path: Path
) -> None:
    path = tmp_path / "vllm.yaml"
    path.write_text(f"model: x\ngpu-memory-utilization: 0.9\n{key}: {value}\n")
    assert options(server(str(path)))["prefix_caching"] == chosen
    assert options(server(f"{VLLM} --{key}={value}"))["prefix_caching"] == chosen


def test_what_a_file_leaves_empty_is_the_engines_default(tmp_path: Path) -> None:
    path = tmp_path / "extra.yaml"
    path.write_text(
        "max_batch_size: null\ncuda_graph_config: null\nspeculative_config:\n  max_draft_len: 3\n"
    )
    read = server(f"trtllm-serve m --config {path}")
    assert options(read)["max_num_seqs"] == "2048"
    said = "speculative_config.max_draft_len: understood, without effect here: speculative decoding is not"
    assert any(note.startswith(said) for note in read.notes)
    assert any(note.startswith("the reuse of blocks is not modelled") for note in read.notes)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_flag_of_a_policy_is_an_option_of_it(engine: str) -> None:
    """With one value that all kinds take, the policy can be built."""
    commands = {"vllm": "vllm serve", "sglang": "sglang serve", "trtllm": "trtllm-serve"}
    for name, flag in ENGINES[engine].FLAGS.items():
        if flag.target.startswith("policy.") and flag.target != "policy.order":
            value = "" if flag.kind == "switch" else "1" if flag.kind == "float" else "2048"
            read = server(f"{commands[engine]} --{name} {value}".strip())
            make_scheduler(read.policy, Limits(kv_tokens=100_000))


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for command in (text, f"vllm serve {text}", f"trtllm-serve m --{text}"):
        try:
            assert server(command).policy
        except InputError as error:
            assert "\n" not in str(error)
