"""The benchmarks' values and files. Nothing here looks at a time."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks import cka, packages, precision, run, table, timing, torch_vision
from ec_jax.errors import InputError, TrainingError

# At tiny sizes the wide ones are those of width 16; of two families one shows how a peer is run.
SAME = {name for name in run.BENCHMARKS if "w64" in name}
SAME |= {"ec_compiled_vit_tiny", "ec_hooks_vit_tiny"}


@pytest.fixture(scope="module")
def smoke():
    return run.measure([name for name in run.there([]) if name not in SAME], smoke=True)


@pytest.fixture(scope="module")
def committed():
    return {group: json.loads(run.results_file(group).read_text()) for group in run.GROUPS}


def _shape(value):
    """Keys and types, numbers alike; what is counted or measured may have other keys."""
    if isinstance(value, dict):
        return {key: _shape(v) for key, v in value.items() if key not in ("passes", "growth_mib")}
    return float if isinstance(value, int) else type(value)


@pytest.mark.slow
def test_every_benchmark_runs_and_its_values_agree(smoke):
    # That they agree is checked before anything is timed.
    left_out = [name for name in run.BENCHMARKS if name not in smoke["benchmarks"]]
    assert set(left_out) == SAME | set(run.BENCHMARKS) - set(run.there([]))
    for entry in smoke["benchmarks"].values():
        assert entry["what"]
        assert entry["against"]
        if "ratio" in entry:
            assert 0 <= entry["difference"] <= (0.05 if "images_per_second" in entry else 1e-3)
            pairs = zip(entry["other_seconds"], entry["ours_seconds"], strict=True)
            ratios = [b / a for b, a in pairs]
            assert entry["ratio"]["median"] == pytest.approx(np.median(ratios), rel=0.02)
            assert entry["ratio"]["lowest"] == pytest.approx(min(ratios), rel=0.02)
            assert entry["ratio"]["highest"] == pytest.approx(max(ratios), rel=0.02)
            assert entry["ratio"].get("cpu", 1) > 0


@pytest.mark.slow
def test_each_image_goes_once_through_each_model(smoke):
    entry = smoke["benchmarks"]["extraction"]
    assert len(entry["passes"]) == 3 * 4
    assert entry["total"]["images"] == 3 * 1797
    for counts in entry["passes"].values():
        assert counts["images"] + counts["padding"] == 500 * counts["calls"]
        assert counts["padding"] < 500


@pytest.mark.slow
def test_the_json_that_is_committed_is_what_the_command_gives(smoke, committed):
    def shape(results):
        lists = [e for e in results["benchmarks"].values() if "ratio" in e]
        assert all(isinstance(t, float) for e in lists for t in e["ours_seconds"])
        return _shape(results)

    assert json.loads(run.written(smoke)) == smoke
    for group, known in run.GROUPS.items():
        assert list(committed[group]["benchmarks"]) == list(known)
        names = [name for name in known if name in smoke["benchmarks"]]
        old, new = (
            {**results, "benchmarks": {name: results["benchmarks"][name] for name in names}}
            for results in (committed[group], smoke)
        )
        assert shape(old) == shape(new)
        for entry in committed[group]["benchmarks"].values():
            assert len(entry.get("ours_seconds", range(5))) >= 5
    growth = committed["evaluation"]["benchmarks"]["memory"]["growth_mib"]
    assert list(growth) == ["5000", "15000", "50000"]


def test_the_page_shows_the_json(committed):
    for group in run.GROUPS:
        assert run.PAGE.read_text() == run.page(group, committed[group])
    changed = json.loads(json.dumps(committed["evaluation"]))
    changed["benchmarks"]["knn"]["ratio"]["median"] = 1234.5
    assert "1234.50×" in run.page("evaluation", changed)


def test_ec_loses_nothing_beside_pytorch_that_a_supervised_step_does_not(committed):
    # docs/performance.md says so.
    ratios = {name: e.get("ratio") for name, e in committed["steps"]["benchmarks"].items()}
    for width in ("w16", "w64"):
        ec, plain = (ratios[f"{kind}_resnet18_{width}"]["median"] for kind in ("ec", "plain"))
        assert ec >= plain


def test_numbers_of_two_machines_do_not_mix(committed):
    committed, names = committed["evaluation"], list(run.GROUPS["evaluation"])
    new = {"machine": committed["machine"], "benchmarks": {"knn": {"what": "new"}}}
    together = run.merged(new, committed)
    assert list(together["benchmarks"]) == names
    assert together["benchmarks"]["knn"] == {"what": "new"}
    elsewhere = {**new, "machine": {**new["machine"], "cores": 0}}
    assert run.merged(elsewhere, committed) is None
    whole = {**elsewhere, "benchmarks": {name: {} for name in names}}
    assert run.merged(whole, committed) == whole


def test_other_values_are_not_timed():
    def compare(a, b):
        times = {"pairs": 1, "difference": timing.largest_difference, "allowed": 1e-4}
        return timing.compare(lambda: a, lambda: b, **times)

    assert compare(1.0, 1.00005)["difference"] == pytest.approx(5e-5)
    for a, b in ((1.0, 1.001), (np.nan, 1.0), (np.array([1.0, 2.0]), np.array([1.0, 2.1]))):
        with pytest.raises(TrainingError, match="differ by"):
            compare(a, b)


def test_textbook_and_loops_agree_with_a_second_definition():
    x, y = np.random.default_rng(0).normal(size=(2, 20, 3))
    x, y = x - x.mean(0), y - y.mean(0)
    norms = [np.linalg.norm(a.T @ b) for a, b in ((x, y), (x, x), (y, y))]
    want = norms[0] ** 2 / (norms[1] * norms[2])
    assert cka.textbook(x, y, np.eye(20)) == pytest.approx(want)


@pytest.mark.slow
def test_memory_that_is_held_would_show(smoke):
    entry = smoke["benchmarks"]["memory"]
    # 30,000 rows of 960 float32 for each of two models are 220 MiB; compiling takes 180 give or
    # take some 30.
    assert entry["features_held_mib"] - entry["growth_mib"]["30000"] > 120


def test_accuracies_of_two_types_are_compared_seed_by_seed():
    found = {"original, retain": {"bfloat16": [98.0, 96.0], "float32": [97.0, 97.5]}}
    assert precision.in_words(found) == "original, retain: 97.0 and 97.2 % (-0.2, -1.5 to +1.0)"


def test_a_ratio_that_fell_is_named(committed):
    old = committed["steps"]["benchmarks"]
    assert not run.worse(old, old)
    for name in ("ec_vit_tiny", "training_loop_8x8"):
        for share, bad in ((0.74, True), (0.76, False), (1.5, False)):
            new = json.loads(json.dumps({**old, "unknown": old[name]}))
            new[name]["ratio"]["median"] = share * old[name]["ratio"]["median"]
            assert list(run.worse(new, old)) == [name] * bad
    cost = {"less": True, "flops": 1.0, "ratio": {"median": 1.0}}
    for change, bad in (
        ({"ratio": {"median": 1.26}}, True),
        ({"ratio": {"median": 1.24}}, False),
        ({"ratio": {"median": 0.5}}, False),
        ({"flops": 1.005}, False),
        ({"flops": 1.02}, True),
    ):
        assert bool(run.worse({"cost": cost | change}, {"cost": cost})) == bad


def test_of_tiny_sizes_no_ratio_is_compared(capsys):
    run.main(["--quick", "--check", "--smoke", "linear_cka_jax"])
    said = capsys.readouterr().out
    assert "mean nothing" in said
    assert "missed" not in said
    assert "reached" not in said


@pytest.fixture
def guarded(committed, tmp_path, monkeypatch):
    """A function that commits another ratio of ``linear_cka_jax``, and gives the file."""

    def made(median):
        known = json.loads(json.dumps(committed["evaluation"]))
        known["benchmarks"]["linear_cka_jax"]["ratio"]["median"] = median
        file = tmp_path / "evaluation.json"
        file.write_text(json.dumps(known))
        return file

    monkeypatch.setattr(run, "results_file", lambda group: tmp_path / f"{group}.json")
    return made


def test_the_guard_fails_where_a_ratio_fell_twice(guarded, capsys):
    file = guarded(1000.0)
    before = file.read_bytes()
    with pytest.raises(SystemExit) as end:
        run.main(["--quick", "--check", "linear_cka_jax"])
    assert end.value.code
    said = capsys.readouterr().out
    assert said.count("linear_cka_jax …") == 2
    assert "linear_cka_jax: " in said
    assert "at least 750.00 expected" in said
    assert file.read_bytes() == before


def test_the_guard_says_how_many_ratios_it_compared(guarded, capsys):
    guarded(0.001)
    with pytest.raises(SystemExit) as end:
        run.main(["--quick", "--check", "linear_cka_jax"])
    assert not end.value.code
    assert "None of 1 ratios is worse" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"memory.*no committed ratio"):
        run.main(["--quick", "--check", "linear_cka_jax", "memory"])


def test_what_is_aimed_at_is_told_apart(committed):
    entry = json.loads(json.dumps(committed["evaluation"]["benchmarks"]["knn"]))
    for median, told in ((1.0, "≥ 1×: reached"), (0.99, "≥ 1×: missed")):
        entry["ratio"]["median"] = median
        assert table.aim("knn", entry) == told
        assert told in table.rows({**committed["evaluation"], "benchmarks": {"knn": entry}})
    name = "ec_over_plain_resnet18_w16_pool"
    for flops, time, told in ((1.1, 1.14, "reached"), (1.1, 1.16, "missed"), (1.2, 1.2, "missed")):
        entry = {"less": True, "flops": flops, "ratio": {"median": time}}
        assert table.aim(name, entry).endswith(told)
    for starts, told in (([0.5, 2.9], "reached"), ([0.5, 3.1], "missed")):
        assert table.aim("help", {"starts": starts}) == f"≤ 3 s: {told}"
    for seconds, told in ((25.0, "reached"), (26.0, "missed")):
        entry = {"seconds_of": {"evaluate": [seconds], "unlearn": [100.0]}}
        assert table.aim("evaluation_share", entry) == f"≤ 0.25×: {told}"
    for ratio, told in ((1.1, "reached"), (1.2, "missed")):
        assert table.aim("memory", {"growth_ratio": ratio}) == f"≤ 1.1×: {told}"
    assert table.aim("plain_vit_tiny", committed["steps"]["benchmarks"]["plain_vit_tiny"]) == "–"
    assert set(table.RATIOS) <= set(run.BENCHMARKS)


def test_what_cannot_run_here_is_said(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not [name for name in run.there([]) if name.startswith("ec_compiled")]
    assert "ec_compiled_vit_tiny: skipped, something is missing" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"ec_compiled_vit_tiny.*install g\+\+"):
        run.there(["ec_compiled_vit_tiny"])


def test_fewer_pairs_may_be_asked_for():
    def compare():
        times = {"pairs": 5, "difference": timing.largest_difference, "allowed": 0}
        return len(timing.compare(lambda: 1.0, lambda: 1.0, **times)["ours_seconds"])

    with timing.at_most(2):
        assert compare() == 2
    assert compare() == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", run.GROUPS["packages"])
def test_packages_fine_tune_the_same_network(smoke, name):
    if remedy := packages.lack(name):
        pytest.skip(remedy)
    entry = smoke["benchmarks"][name]
    assert entry["difference"] < 1e-4  # of the losses before the first update
    assert entry["what"].startswith(f"{packages.STEPS} steps")


def test_the_package_cannot_fine_tune_by_itself():
    # Where it can, what docs/performance.md says of it is no longer so.
    if remedy := packages.lack("finetune_torchunlearn"):
        pytest.skip(remedy)
    torch_vision.load()
    from torchunlearn.unlearn.easymode import Unlearn

    sets = {name: [(torch.zeros(1, 3, 8, 8), torch.zeros(1))] for name in ("Retain", "Forget")}
    made = Unlearn(torch.nn.Identity(), None, sets, {"Test": sets["Retain"]}, None)
    with pytest.raises(ModuleNotFoundError, match=r"torchunlearn\.unlearn\.trainers"):
        made.finetune(1, 0.1)


def test_other_interpreters_need_pytorch_alone():
    code = (
        "import sys, benchmarks.torch_resnet; assert not {'jax', 'flax', 'ec_jax'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], cwd=run.FOLDER.parent, check=True)


def test_losses_of_fewer_steps_are_not_those_of_all():
    assert packages._difference([2.0] * packages.STEPS, [2.5, *[1.0] * 4]) == 0.5
    assert packages._difference([2.0] * packages.STEPS, [2.0]) == np.inf
    assert packages._difference([2.0] * packages.STEPS, [2.0, np.nan, 1, 1, 1]) == np.inf


def test_a_missing_package_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv(packages.SUPREME, raising=False)
    with pytest.raises(InputError, match=r"finetune_supreme.*pip install supreme-unlearning"):
        run.main(["finetune_supreme"])
    assert "finetune_supreme" not in run.there([])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "supreme" in line]
    assert line.startswith("finetune_supreme: skipped")
    for python, why in ((str(tmp_path), "no Python runs there"), (sys.executable, "it lacks")):
        monkeypatch.setenv(packages.SUPREME, python)
        with pytest.raises(InputError, match=f"SUPREME_PYTHON = .*{why}"):
            run.there(["finetune_supreme"])
