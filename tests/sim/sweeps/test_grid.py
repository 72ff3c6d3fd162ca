"""The grid of a sweep: what is multiplied out, what is refused, and what a key depends on."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.hardware import catalogue as profiles
from sim.scenario.inputs import digest_of
from sim.sweeps.grid import MAX_POINTS, Grid, inputs_of, known_settings, read_grid, running_order
from traces.errors import InputError

TRACE = "request_id,arrival_s,prompt_tokens,output_tokens\n0,0.0,10,5\n1,0.5,12,7\n"

AXES = {
    "policies": st.sampled_from(["vanilla", "sequence", "continuous", "vanilla:batch_size=4"]),
    "request_rate": st.floats(0.1, 100) | st.just(math.inf),
    "seeds": st.integers(0, 2**31),
    "kv_blocks": st.integers(1, 10**6),
    "max_concurrency": st.integers(1, 1000),
    "goodput": st.lists(st.sampled_from(["ttft:2000", "tpot:100"]), max_size=2, unique=True),
}


@st.composite
def grids(draw: st.DrawFn) -> dict[str, list[Any]]:
    names = draw(st.lists(st.sampled_from(sorted(AXES)), min_size=1, max_size=4, unique=True))
    return {n: draw(st.lists(AXES[n], min_size=1, max_size=3, unique_by=json.dumps)) for n in names}


@settings(max_examples=30)
@given(lists=grids())
def test_points_are_the_product_of_the_lists_the_last_one_fastest(lists: dict[str, list[Any]]) -> None:
    grid = read_grid({"trace": "fixed", "num_prompts": 3, "grid": lists})
    settings = list(grid.settings())
    assert len(settings) == len(grid) == math.prod(map(len, lists.values()))
    for found, values in zip(settings, itertools.product(*lists.values()), strict=True):
        assert list(found.values()) == [*values, "fixed", 3]
        assert set(found) <= set(known_settings())
    points = grid.points()
    assert [point.index for point in points] == list(range(len(grid)))
    assert len({point.key for point in points}) == len(grid)
    assert [point.key for point in grid.points()] == [point.key for point in points]
    assert sorted(running_order(points), key=lambda p: p.index) == points


@settings(max_examples=30)
@given(lists=grids(), data=st.data())
def test_a_key_depends_on_neither_the_order_nor_the_company_of_a_point(
    lists: dict[str, list[Any]], data: st.DataObject
) -> None:
    whole = {p.key: p.cells for p in read_grid({"trace": "fixed", "grid": lists}).points()}
    name = data.draw(st.sampled_from(sorted(lists)))
    shuffled = dict(data.draw(st.permutations(sorted({**lists, name: lists[name][:1]}.items()))))
    part = {p.key: p.cells for p in read_grid({"trace": "fixed", "grid": shuffled}).points()}
    assert part.items() <= whole.items()


def test_defaults_that_are_written_out_change_no_key() -> None:
    plain = read_grid({"grid": {"seeds": [0, 1]}}).points()
    written = read_grid({"burstiness": 1, "predictor": "oracle", "grid": {"seeds": [0, 1]}}).points()
    assert [p.key for p in plain] == [p.key for p in written]


def test_a_key_follows_the_content_of_trace_profile_files_and_policies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("t.csv").write_text(TRACE, encoding="utf-8")
    Path("p.json").write_text(json.dumps(profiles.load("h200-vicuna-7b").to_json()), encoding="utf-8")
    Path("pairs.csv").write_text("predicted,actual\n5,6\n7,8\n", encoding="utf-8")
    Path("grid_policies.py").write_text("from sim.schedulers import MicrobatchScheduler as Mine\n")
    settings = {
        "trace": "t.csv",
        "profile": "p.json",
        "predictor": "empirical:file=pairs.csv",
        "policy": "grid_policies:Mine",
    }

    def keys() -> tuple[str, dict[str, str]]:
        (point,) = read_grid({**settings, "grid": {"seeds": [0]}}).points()
        return point.key, dict(point.inputs)

    key, inputs = keys()
    assert {name.split()[0] for name in inputs} == set(settings)
    changes = {
        "t.csv": TRACE.replace("12", "13"),
        "p.json": Path("p.json").read_text().replace('"h200-vicuna-7b"', '"another"'),
        "pairs.csv": "predicted,actual\n5,6\n7,9\n",
        "grid_policies.py": "from sim.schedulers import SequenceScheduler as Mine\n",
    }
    for name, text in changes.items():
        Path(name).write_text(text, encoding="utf-8")
        before, (key, inputs) = (key, inputs), keys()
        assert key != before[0]
        assert len(inputs.items() - before[1].items()) == 1


@pytest.mark.parametrize(("name", "other"), [("__version__", "0.0.0"), ("RESULTS_VERSION", 0)])
def test_a_key_follows_both_versions(name: str, other: object, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_grid({"grid": {"seeds": [0]}}).points()
    monkeypatch.setattr(f"sim.sweeps.grid.{name}", other)
    assert read_grid({"grid": {"seeds": [0]}}).points()[0].key != before[0].key


def test_neighbours_in_the_order_of_running_share_trace_and_seed() -> None:
    grid = read_grid({"trace": "fixed", "grid": {"policies": ["vanilla", "sequence"], "seeds": [0, 1, 2]}})
    order = [point.settings["seed"] for point in running_order(grid.points())]
    assert order == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trace = 'fixed'", "[grid]"),
        ("[grid]", "[grid]"),
        ("[grid]\ncolour = ['red']", "grid.colour: unknown setting colour; the settings are policy, "),
        (
            "colour = 'red'\n[grid]\nseeds = [0]",
            "toml, colour: unknown setting colour; the settings are ",
        ),
        (
            "num_prompt = 5\n[grid]\nseeds = [0]",
            "num_prompt: unknown setting num_prompt; did you mean num_prompts?",
        ),
        ("[grid]\nseeds = []", "grid.seeds: the list is empty; it must hold at least 1"),
        ("[grid]\nseeds = 3", "grid.seeds: 3 is not a list"),
        ("[grid]\nseeds = [1, 2, 1]", "grid.seeds: 1 is there 2 times"),
        ("[grid]\nrequest_rate = [2, 2.0]", "grid.request_rate: 2.0 is there 2 times"),
        ("[grid]\nseeds = [1.5]", "grid.seeds: 1.5 is not a whole number"),
        ("[grid]\nseeds = [true]", "grid.seeds: True is not a whole number"),
        ("[grid]\nrequest_rate = ['fast']", "grid.request_rate: 'fast' is not a number"),
        ("[grid]\nrequest_rate = [nan]", "grid.request_rate: nan is not a number"),
        ("[grid]\npolicies = [3]", "grid.policies: 3 is not a text"),
        ("[grid]\npolicies = ['a\\nb', \"a\\nb\"]", "is not a text of one line"),
        ("goodput = 'ttft:3'\n[grid]\nseeds = [0]", "goodput: 'ttft:3' is not a list of texts or a table"),
        ("seed = 1\n[grid]\nseeds = [0]", "grid.seeds: seed is given twice"),
        ("[grid]\nseed = [1]\nseeds = [0]", "grid.seeds: seed is given twice"),
        ("[grid]\nseeds = [0]\nseeds = [1]", "not a TOML file"),
        ("[grid]\npolicies = ['vanilla', 'nonsense']", "policy 'nonsense' is not one of"),
        ("[grid]\npolicies = ['vanilla:batch_size=0']", "batch_size: 0 must be at least 1"),
        ("[grid]\npredictors = ['nonsense']", "nonsense"),
        ("[grid]\nprofiles = ['nonsense']", "'nonsense' is neither a file nor a shipped profile"),
        ("[grid]\ntraces = ['nowhere.csv']", "nowhere.csv: no such file"),
        ("[grid]\nkv_blocks = [100, 0]", "0 is below 1"),
        ("[grid]\nseeds = [0, -1]", "seed: -1 must be at least 0"),
        ("goodput = ['ttft:-1']\n[grid]\nseeds = [0]", "ttft:-1 must be above 0"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_before_anything_runs(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_grid(path).points()
    message = str(refused.value)
    assert said in message and message.count("\n") == 0
    assert message.startswith(str(path)) or said.startswith("nowhere")


def test_a_grid_has_a_bound() -> None:
    lists = {"seeds": list(range(2000)), "kv_blocks": list(range(1, 2000))}
    with pytest.raises(InputError, match=f"3998000 points are above {MAX_POINTS}"):
        read_grid({"grid": lists})


def test_values_that_only_some_others_allow_are_no_error(tmp_path: Path) -> None:
    """A profile without a memory part goes with the points that say how much there is."""
    data = profiles.load("h200-vicuna-7b").to_json() | {"memory": None}
    path = tmp_path / "bare.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    lists = {"profiles": ["h200-vicuna-7b", str(path)], "kv_blocks": [1000]}
    assert len(read_grid({"grid": lists}).points()) == 2
    with pytest.raises(InputError, match="kv_blocks"):
        read_grid({"grid": {"profiles": ["h200-vicuna-7b", str(path)]}}).points()


def test_files_are_digested_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TRACE, encoding="utf-8")
    kept: dict[tuple[str, str], str] = {}
    first = inputs_of({"trace": str(path)}, kept)
    path.unlink()
    assert inputs_of({"trace": str(path)}, kept) == first


@pytest.mark.parametrize("name", ["plain.csv", "a=b.csv", "a,b;c:d=.csv"])
@pytest.mark.parametrize(
    ("setting", "before"), [("failures", ""), ("predictor", "empirical:charge=off,file=")]
)
def test_a_file_is_found_whatever_its_name(name: str, setting: str, before: str, tmp_path: Path) -> None:
    path = tmp_path / name
    digests = []
    for text in ("1", "2"):
        path.write_text(text, encoding="utf-8")
        digests.append(digest_of(setting, f"{before}{path}"))
    assert digests[0] and digests[1] and digests[0] != digests[1]
    path.unlink()
    assert digest_of(setting, f"{before}{path}{'0' * 300}") == ""


def test_a_sweep_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: cannot be read"):
        read_grid(tmp_path / "none.toml")
    assert isinstance(read_grid({"grid": {"seeds": [0]}}), Grid)


def test_defaults_are_for_what_is_left_open_and_a_fleet_has_its_own_machines() -> None:
    defaults = {"policy": "vanilla", "profile": "h200-vicuna-7b", "replicas": 2}
    (point,) = read_grid({"trace": "fixed", "grid": {"policies": ["continuous"]}}, defaults).points()
    assert dict(point.settings) == {"trace": "fixed", "policy": "continuous", "profile": "h200-vicuna-7b",
                                    "replicas": 2}  # fmt: skip
    fleet = read_grid({"fleet": "h200-vicuna-7b*3", "grid": {"seeds": [0]}}, defaults)
    assert fleet.given == {"fleet", "seed", "policy"}
    with pytest.raises(InputError, match="defaults, colour: unknown setting"):
        read_grid({"grid": {"seeds": [0]}}, {"colour": "red"})
    with pytest.raises(InputError, match="defaults, replicas: 'two' is not a whole number"):
        read_grid({"grid": {"seeds": [0]}}, {"replicas": "two"})
