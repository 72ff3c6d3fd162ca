"""The commands whose outputs are frozen: name -> command line, in a folder that holds `inputs/`."""

# ruff: noqa: E501  (a command a line, however long)

from __future__ import annotations

_CSV = "simulate --trace requests.csv --json"
_TINY = "--trace lognormal:prompt_median=60,output_median=60 --num-prompts 24 --max-new-tokens 200"
_BUSY = "simulate --trace lognormal:prompt_median=100,output_median=80 --num-prompts 96 --max-new-tokens 256 --json"
_H200 = "--profiles h200-vicuna-7b --jobs 1 --num-seeds 3 --num-requests 200 --max-seeds 4 --max-requests 800"
_PLAN = f"plan --json --trace lognormal:output_median=80,max_output_tokens=200 --max-new-tokens 200 {_H200}"
_SMALL = "continuous:max_num_seqs=8,max_num_batched_tokens=1024"

OUTPUTS: dict[str, str] = {
    # the policies of the paper, and what can be chosen of them
    "vanilla": "simulate --json --num-prompts 128 --policy vanilla",
    "sequence": "simulate --json --num-prompts 256 --predictor tuned",
    "sequence-vbs-memory": "simulate --json --num-prompts 128 --policy sequence:vbs=memory --predictor tuned",
    "sequence-vbs-off": "simulate --json --num-prompts 128 --policy sequence:vbs=off,fcr=off --predictor tuned",
    "sequence-fcr-off": "simulate --json --num-prompts 128 --policy sequence:fcr=off,group_size=64",
    "sequence-open-bins": f"{_CSV} --policy sequence:max_wait_s=2,batch_size=8 --request-rate 8",
    "sequence-margin": f"{_CSV} --policy sequence:margin=0.8,bin_width=25 --predictor noisy:sigma=0.4 --seed 3",
    "sequence-own-times": f"{_CSV} --policy sequence --save-requests requests-out.csv",
    # continuous batching
    "continuous": f"{_BUSY} --policy continuous --request-rate 4",
    "continuous-stepwise": f"{_BUSY} --policy continuous --request-rate 4 --no-leap",
    "continuous-priority": f"{_CSV} --policy continuous:order=priority,max_num_seqs=4",
    "continuous-ageing": f"{_CSV} --policy continuous:order=priority,aging_s=5,max_num_seqs=4",
    "continuous-fair": f"{_CSV} --policy continuous:order=fair,max_num_seqs=4 --goodput ttft:2000 tpot:100",
    "continuous-shortest": f"{_CSV} --policy continuous:order=shortest-predicted,max_num_seqs=4 --predictor trace",
    "continuous-remaining": f"{_CSV} --policy continuous:order=shortest-remaining,max_num_seqs=4 --predictor tuned",
    "continuous-scarce": f"{_BUSY} --policy continuous --kv-blocks 60",
    "continuous-scarce-chunk": f"{_BUSY} --policy continuous:admission=chunk,prefix_caching=off --kv-blocks 60",
    "continuous-planned": f"{_BUSY} --policy continuous:admission=predicted,margin=8 --kv-blocks 60",
    "continuous-unchunked": f"{_BUSY} --policy continuous:chunked=off,max_num_batched_tokens=1024 --request-rate 9",
    "continuous-async": f"{_BUSY} --policy continuous:async_scheduling=on --kv-blocks 80 --request-rate 20",
    "continuous-asks": f"{_BUSY} --policy continuous:order=shortest-predicted --predictor oracle:charge=on --seed 2",
    # predictors
    "predictor-exact": f"{_CSV} --predictor exact",
    "predictor-constant": f"{_CSV} --predictor constant:tokens=100",
    "predictor-noisy": f"{_CSV} --predictor noisy:sigma=0.5,miss=0.1,regress=on,round_to=10",
    "predictor-empirical": f"{_CSV} --predictor empirical:file=pairs.csv",
    # the workload
    "load-bursty": "simulate --json --num-prompts 64 --request-rate 3 --burstiness 0.4 --seed 5 --policy continuous",
    "load-fixed": "simulate --json --trace fixed:prompt_tokens=50,output_tokens=30 --num-prompts 64 --request-rate inf",
    "load-concurrency": f"{_CSV} --policy continuous --max-concurrency 3 --time-scale 0.2",
    "load-scales": f"{_CSV} --prompt-scale 2 --output-scale 0.5 --max-new-tokens 128 --sample-seed 4 --num-prompts 40",
    "what-if": f"{_CSV} --policy continuous --set gpu=H100 weight_bits=8 kv_bits=8 step_cost.host_ms=1.5",
    "what-if-parallel": f"{_CSV} --profile h200-vicuna-7b --policy continuous --set tensor_parallel=2 scale=1.1",
    # the fleet
    "router-round-robin": f"{_CSV} --replicas 3 --router round-robin --time-scale 0.2",
    "router-random": f"{_CSV} --replicas 3 --router random --time-scale 0.2 --seed 1",
    "router-least-requests": f"{_CSV} --replicas 3 --policy continuous --time-scale 0.2 --save-replicas replicas.csv",
    "router-least-tokens": f"{_CSV} --replicas 3 --router least-tokens --policy continuous --time-scale 0.2",
    "router-predicted-work": f"{_CSV} --replicas 3 --router least-predicted-work --predictor tuned --time-scale 0.2",
    "router-predicted-latency": f"{_CSV} --replicas 3 --router predicted-latency:ttft_ms=200,tpot_ms=20 --policy continuous --time-scale 0.2",
    "router-power-of-two": f"{_CSV} --replicas 3 --router power-of-two --policy vanilla --time-scale 0.2",
    "router-shared-queue": f"{_CSV} --replicas 3 --router shared-queue --predictor tuned --time-scale 0.2",
    "fleet-mixed": f"{_CSV} --fleet h200-vicuna-7b*1;a100-80gb-vicuna-7b-transformers*2 --save-replicas replicas.csv",
    "outages": f"{_CSV} --replicas 2 --policy continuous --mtbf-s 8 --mttr-s 3 --startup-s 1 --seed 2",
    "outages-scheduled": f"{_CSV} --replicas 2 --failures failures.csv --startup-s 2 --save-replicas replicas.csv",
    "outages-shared-queue": f"{_CSV} --replicas 2 --router shared-queue --failures failures.csv",
    # decision logs and timelines
    "sessions": (
        "simulate --json --trace sessions:users=12,turns=3,agents=1 --policy continuous:prefix_caching=on --replicas 2 "
        "--save-requests requests-out.csv"
    ),
    "router-sglang": (
        "simulate --json --trace sessions:users=12,turns=3,agents=1 --policy continuous:prefix_caching=on --replicas 3 "
        "--router prefix-aware:rule=sglang,balance_abs=2 --time-scale 0.1"
    ),
    "decisions-vanilla": f"simulate --json {_TINY} --policy vanilla --save-decisions decisions.jsonl",
    "decisions-sequence": f"simulate --json {_TINY} --predictor tuned --save-decisions decisions.jsonl",
    "decisions-open-bins": (
        f"simulate --json {_TINY} --policy sequence:max_wait_s=1 --request-rate 4 --save-decisions decisions.jsonl"
    ),
    "decisions-continuous": (
        f"simulate --json {_TINY} --policy continuous:order=shortest-remaining --predictor oracle:charge=on "
        "--kv-blocks 40 --request-rate 20 --save-decisions decisions.jsonl"
    ),
    "decisions-async": (
        f"simulate --json {_TINY} --policy continuous:async_scheduling=on --kv-blocks 40 --save-decisions d.jsonl"
    ),
    "decisions-fleet": (
        f"simulate --json {_TINY} --policy continuous --replicas 2 --router shared-queue --failures failures.csv "
        "--save-decisions decisions.jsonl"
    ),
    "perfetto": f"simulate --json {_TINY} --policy continuous --request-rate 6 --perfetto timeline.json",
    "perfetto-window": f"simulate --json {_TINY} --perfetto timeline.json --perfetto-window 1:4",
    # the other commands
    "compare": "compare --json --num-prompts 128 --predictor tuned",
    "compare-load": "compare --json --trace requests.csv --policies continuous;sequence --replicas 2",
    "plan": f"{_PLAN} --slo ttft_p90:800 tpot_p50:60 --request-rate 40 --price H200:3.5 --policies {_SMALL}",
    "plan-spare": f"{_PLAN} --slo e2el_mean:4000 --request-rate 10 --spare 1 --policies sequence;{_SMALL}",
    "plan-max-rate": f"{_PLAN} --slo ttft_p90:800 --max-rate --replicas 2 --tolerance 0.1 --policies {_SMALL}",
    "plan-attainment": f"{_PLAN} --slo attainment:0.9 --goodput ttft:1000 tpot:80 --request-rate 30 --policies {_SMALL} --state state.jsonl",
    "plan-sensitivity": f"{_PLAN} --slo ttft_p90:800 --request-rate 20 --policies {_SMALL} --report report.html",
    "plan-own-times": f"plan --json --trace requests.csv --slo wait_p90:1500 --request-rate 10x {_H200}",
    "plan-replayed": f"plan --json --trace requests.csv --slo wait_p90:1500 attainment:0.5 --goodput ttft:9000 {_H200}",
    "sweep": "sweep sweep.toml --jobs 1 --json --out rows.csv",
    "validate": "validate --against log.csv --json --policy continuous:max_num_seqs=8",
    "calibrate": "calibrate --steps steps.csv --out machine.json --gpu H200 --model llama-3.1-8b --host-ms 2",
    "trace-inspect": "trace inspect requests.csv --json",
    "trace-convert": "trace convert log.csv converted.jsonl",
    "trace-generate": "trace generate alpaca-vicuna --out made.csv --num-prompts 40 --seed 3 --request-rate 2",
    "profile-show": "profile show a100-80gb-vicuna-7b-transformers --json",
    "profile-what-if": "profile what-if h200-vicuna-7b --set gpu=H100 weight_bits=8 --out changed.json",
    "profile-estimate": "profile estimate --gpu L40S --model vicuna-7b --out estimated.json",
    "settings-file": "simulate --config settings.toml --json",
}
"""Figures: the JSON that these print and the files that they write change with the results version alone."""

TEXTS: dict[str, str] = {
    "table-simulate": "simulate --trace requests.csv --policy continuous --replicas 2",
    "table-compare": "compare --trace requests.csv",
    "table-plan": _PLAN.replace(" --json", "") + " --slo ttft_p90:800 --request-rate 40",
    "words-plan": f"{_PLAN} --slo ttft_p90:800 --request-rate 10 --spare 1",
    "words-unreachable": f"{_PLAN} --slo tpot_p50:1 --request-rate 10",
    "table-validate": "validate --against log.csv",
    "table-profile": "profile show h200-vicuna-7b",
    "words-calibrate": "calibrate --steps steps.csv --out machine.json",
    "table-inspect": "trace inspect requests.csv",
    "error-no-file": "simulate --trace missing.csv",
    "error-policy": "simulate --policy sequenze",
    "error-option": "simulate --policy sequence:vbs=tabel",
    "error-flag": "simulate --replica 2",
    "error-number": "simulate --request-rate -1",
    "error-predictor": "simulate --predictor noisy:sigma=-1",
    "error-fleet": "simulate --fleet h200-vicuna-7b*0",
    "error-set": "simulate --set gpu=H900",
    "error-column": "validate --against requests.csv",
    "error-steps": "calibrate --steps pairs.csv --out machine.json",
    "error-slo": "plan --slo ttft_p90",
    "error-sweep": "sweep settings.toml",
}
"""Words for people: guarded too, but free to be worded anew under the same results version."""
