"""The search for recipes: as many trials for every method, on held-out training images."""

import json
import types

import pytest
from command import command, refused

from configs import digits, fashion_mnist
from ec_jax import config as config_lib
from ec_jax import config_file, recipes, registry, tune
from ec_jax import workdir as workdir_lib
from ec_jax.errors import InputError

NAMES = [name for name in registry.names() if name != "retrain"]
SMALL = (
    "--config=configs/digits.py",
    "--config.model.depth=8",
    "--config.model.width=4",
    "--config.original.epochs=1",
    "--config.modules.epochs=0",
    "--config.unlearn.steps=2",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("source", [digits, fashion_mnist])
def test_every_method_has_as_many_trials_all_of_them_valid(name, source, monkeypatch):
    from ec_jax.data import sources

    monkeypatch.setattr(sources, "check", lambda *_: None)  # the archives need not be here
    found = tune._configs(source.get_config(), name, [])
    assert len(found) == tune.TRIALS
    assert len({json.dumps(settings) for settings, _ in found}) == tune.TRIALS
    known = config_lib.flatten(recipes.complete(source.get_config()))
    for settings, config in found:
        assert settings.keys() <= known.keys()
        config_lib.validate(config)
        assert config.data.validation == tune.VALIDATION


def test_the_nearest_to_the_oracle_that_is_whole_is_chosen():
    tried = [
        {"settings": 1, "verdict": "damaged", "score": 0.01},
        {"settings": 2, "verdict": "superficial", "score": 0.2},
        {"settings": 3, "verdict": "failed", "score": None},
        {"settings": 4, "verdict": "not forgotten", "score": 0.3},
    ]
    assert tune.best(tried)["settings"] == 2
    assert tune.best(tried[::2])["settings"] == 1  # if there is no other
    tried.append({"settings": 5, "verdict": "erased", "score": 0.0})
    assert tune.best(tried)["settings"] == 5


def tried(*trials):
    return [{"settings": settings, "verdict": "", "score": score} for settings, score in trials]


def test_two_more_are_tried_around_the_best():
    line = [({"rate": 1.0}, 3.0), ({"rate": 4.0}, 1.0), ({"rate": 64.0}, 2.0)]
    assert tune.around(tried(*line)) == [{"rate": 2.0}, {"rate": 16.0}]
    line[2] = ({"rate": 64.0}, 0.5)  # the highest is the best
    assert tune.around(tried(*line)) == [{"rate": 256.0}, {"rate": 1020.0}]
    line[0] = ({"rate": 1.0}, 0.1)
    assert tune.around(tried(*line)) == [{"rate": 0.5}, {"rate": 0.25}]


def test_neighbours_are_those_with_the_same_other_fields():
    grid = [({"rate": r, "weight": w}, abs(r - 4) + w) for r in (1.0, 4.0, 9.0) for w in (1, 2)]
    grid.append(({"rate": 5.0, "weight": 3}, 9.0))
    expected = [{"rate": 2.0, "weight": 1}, {"rate": 6.0, "weight": 1}]
    assert tune.around(tried(*grid)) == expected
    alone = tried(({"rate": 3.0, "weight": 1}, 0.0), ({"rate": 4.0, "weight": 2}, 1.0))
    assert [s["rate"] for s in tune.around(alone)] == [1.5, 6.0]


def test_what_is_no_number_is_left_and_counts_stay_counts():
    line = [({"kind": "a", "on": True, "steps": n}, n) for n in (10, 40)]
    assert [s["steps"] for s in tune.around(tried(*line))] == [5, 2]
    assert tune.around(tried(({"kind": "a"}, 1.0), ({"kind": "b"}, 2.0))) == []


def test_a_value_that_is_not_allowed_is_left_out():
    config = digits.get_config()
    found = tune._configs(config, "damp", [], [{"damp.strength": s} for s in (0.95, 1.1)])
    assert [settings for settings, _ in tune._allowed(found)] == [{"damp.strength": 0.95}]


def test_what_is_passed_over_is_chosen_only_if_what_is_left_is_spoilt():
    tried = [
        {"settings": 1, "verdict": "erased", "score": 0.1},
        {"settings": 2, "verdict": "superficial", "score": 0.2},
        {"settings": 3, "verdict": "damaged", "score": 0.01},
    ]
    assert tune.best(tried, [{"settings": 1}])["settings"] == 2
    assert tune.best(tried, [{"settings": 1}, {"settings": 2}])["settings"] == 1


class Stub:
    """Cells whose runs leave a config and numbers at once, and give what is there like the real."""

    def __init__(self, *_):
        pass

    def run(self, config, cell):
        result = cell / "metrics.json"
        if not result.is_file():
            cell.mkdir(parents=True)
            workdir_lib.write_resolved(config, cell)
            workdir_lib.write_json(result, {"failed": "it is a stub"})
        return json.loads(result.read_text())


@pytest.fixture
def search(monkeypatch, tmp_path):
    """``search(**{"field": value})``: a search for scrub, with these fields set."""
    from ec_jax import cells

    monkeypatch.setattr(cells, "Cells", Stub)

    def run(confirm="", **fields):
        monkeypatch.setattr(config_file, "overridden", lambda: list(fields))
        config = digits.get_config().unlock()
        config.update_from_flattened_dict(fields)
        flags = types.SimpleNamespace(
            workdir=str(tmp_path / "tune"), methods="scrub", confirm=confirm
        )
        tune.main(config.lock(), flags)

    return run


def test_trials_of_other_settings_are_not_taken_for_these(search, tmp_path, monkeypatch):
    search()
    search()  # the same: what is there stays
    before = (tmp_path / "tune" / "search.json").read_text()
    with pytest.raises(InputError, match=r"trial1.*scrub\.alpha is .* there and 0\.25 here"):
        search(**{"scrub.alpha": 0.25})
    monkeypatch.setattr(tune, "trials", lambda *_: [{"unlearn.steps": 7}])
    with pytest.raises(InputError, match=r"trial1.*unlearn\.steps is .* there and 7 here"):
        search()
    assert (tmp_path / "tune" / "search.json").read_text() == before


def test_trials_around_another_best_are_not_taken_for_these(search, tmp_path, monkeypatch):
    search()
    ran = []
    monkeypatch.setattr(Stub, "run", lambda _, c, cell: ran.append(cell.name) or {"failed": ""})
    monkeypatch.setattr(tune, "around", lambda _: [{"unlearn.steps": n} for n in (8, 9)])
    with pytest.raises(InputError, match=r"trial7.*unlearn\.steps is .* there and 8 here"):
        search()
    assert ran == [f"trial{i + 1}" for i in range(tune.TRIALS)]


class Spoilt(Stub):
    """Cells that all leave the model whole, but for one setting with seed 2."""

    ran: list[str]

    def run(self, config, cell):
        self.ran.append(cell.name)
        assert config.seed == int(cell.name.partition("seed")[2] or 0)
        lost = 50.0 if (config.unlearn.steps, config.seed) == (5, 2) else 0.0
        numbers = {"accuracy/retain_test": 90.0 - lost, "accuracy/forget_test": 0.0}
        numbers |= {"gap/logit": config.unlearn.steps, "gap/representation": 0.0}
        oracle = {"accuracy/retain_test": 90.0, "accuracy/forget_test": 0.0}
        models = {"original": oracle, "oracle": oracle, "unlearned": numbers}
        return {"models": models, "scenario": {"points": ["stage1"], "method": "scrub"}}


def test_the_best_is_passed_over_where_another_seed_is_damaged(search, tmp_path, monkeypatch):
    from ec_jax import cells

    monkeypatch.setattr(cells, "Cells", Spoilt)
    monkeypatch.setattr(Spoilt, "ran", [], raising=False)
    monkeypatch.setattr(tune, "trials", lambda *_: [{"unlearn.steps": n} for n in (9, 5, 7)])
    monkeypatch.setattr(tune, "around", lambda _: [])
    search(confirm="1,2")
    further = ["trial2-seed1", "trial2-seed2", "trial3-seed1", "trial3-seed2"]
    assert Spoilt.ran == ["trial1", "trial2", "trial3", *further]
    found = json.loads((tmp_path / "tune" / "search.json").read_text())
    over = [{"settings": {"unlearn.steps": 5}, "why": "damaged with seed 2"}]
    assert found["passed_over"] == {"scrub": over}
    recipe = json.loads((tmp_path / "tune" / "recipes.json").read_text())
    assert recipe == {"scrub": {"unlearn.steps": 7}}
    search()  # no seed is asked
    assert (
        json.loads((tmp_path / "tune" / "recipes.json").read_text())["scrub"] == over[0]["settings"]
    )


def test_what_a_method_refuses_is_refused_before_any_trial(search, tmp_path):
    with pytest.raises(InputError, match=r"^ec\.points = 'stage4': EC leaves the last point"):
        search(**{"ec.plugin": True, "ec.points": "stage4", "ec.weights": "1"})
    assert not (tmp_path / "tune").exists()


@pytest.mark.slow
def test_a_search_leaves_its_trials_and_recipes_and_goes_on(tmp_path):
    workdir = tmp_path / "tune"
    arguments = (*SMALL, f"--workdir={workdir}", "--methods=damp")
    done = command(*arguments, module="ec_jax.tune", timeout=300)
    assert done.returncode == 0, done.stderr
    search = json.loads((workdir / "search.json").read_text())
    tried = search["methods"]["damp"]
    first = registry.search("damp")
    assert [t["settings"] for t in tried[:6]] == first
    further = tune.around(tried[:6])
    assert [t["settings"] for t in tried[6:]] == [s for s in further if s["damp.strength"] <= 1]
    for i, trial in enumerate(tried):
        metrics = json.loads((workdir / "damp" / f"trial{i + 1}" / "metrics.json").read_text())
        values = metrics["models"]["unlearned"]
        expected = (values["gap/logit"] / 100 + values["gap/representation"]) / 2
        assert trial["score"] == pytest.approx(expected, abs=1e-5)
        # A fifth of the training images, no test image: 1,437 of them.
        assert metrics["scenario"]["images"]["retain_test"] == 258
        assert sum(metrics["scenario"]["images"].values()) == 1437
    chosen = json.loads((workdir / "recipes.json").read_text())
    assert chosen == {"damp": tune.best(tried)["settings"]}
    shared = workdir / "shared"
    before = {p: p.stat().st_mtime_ns for p in shared.rglob("*")}
    done = command(*arguments, module="ec_jax.tune", timeout=300)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in shared.rglob("*")} == before
    assert json.loads((workdir / "search.json").read_text()) == search
    refused(
        *arguments,
        "--config.unlearn.steps=3",
        module="ec_jax.tune",
        says=("workdir = ", "unlearn.steps is 2 there and 3 here"),
    )
