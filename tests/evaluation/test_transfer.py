"""k-NN on other sets: what scikit-learn finds, and sets that cannot be measured."""

import jpegs
import numpy as np
import pytest
from command import changed
from sklearn.neighbors import KNeighborsClassifier

from configs import default
from ec_jax import data_config
from ec_jax.data.sources import Dataset
from ec_jax.errors import InputError
from ec_jax.evaluation import transfer
from ec_jax.scenario import Scenario


def dataset(seed, train=30, test=11, classes=4):
    draw = np.random.default_rng(seed)
    parts = []
    for count in (train, test):
        labels = np.arange(count, dtype=np.int32) % classes
        images = draw.integers(0, 200, (count, 2, 2, 3)) + labels[:, None, None, None] * 10
        parts += [images.astype(np.uint8), labels]
    names = tuple(map(str, range(classes)))
    return Dataset("it", names, *parts, parts[1], parts[3])


def forward(scale):
    def run(images):
        flat = np.asarray(images, np.float32).reshape(len(images), -1)
        deep = flat[:, :3] * scale
        return {"low": flat, "high": deep}, deep, {}

    return run


def test_it_is_scikit_learns_accuracy_on_every_set_and_point():
    scale = np.array([1, 5, 0.2], np.float32)
    models = {"original": forward(1), "unlearned": forward(scale)}
    sets = {"birds": dataset(0), "homes": dataset(1, train=50, classes=7)}
    reads = [(name, lambda data=data: data) for name, data in sets.items()]
    found = transfer.measure(models, reads, batch_size=8, neighbors=3)
    assert found.keys() == models.keys()
    for name, data in sets.items():
        for model, run in models.items():
            bank, queries = (run(i)[0] for i in (data.train_images, data.test_images))
            for point in ("low", "high"):
                near = KNeighborsClassifier(3, metric="cosine").fit(bank[point], data.train_labels)
                wanted = 100 * near.score(queries[point], data.test_labels)
                assert found[model][f"transfer/{name}/{point}"] == pytest.approx(wanted)
    assert len(found["original"]) == 4


def test_a_set_with_fewer_images_than_neighbours_is_refused():
    reads = [("birds", lambda: dataset(0, train=4))]
    with pytest.raises(InputError, match=r"evaluation.neighbors = 5: birds has 4 training images"):
        transfer.measure({"it": forward(1)}, reads, batch_size=8, neighbors=5)


def config(tmp_path, spec):
    """Of a run on a folder of pictures."""
    if not (tmp_path / "data").exists():
        jpegs.folder(tmp_path / "data")
    data = {"data__name": "folder", "data__data_dir": str(tmp_path / "data")}
    sizes = {"data__image_size": 16, "data__resize": 20, "forget__classes": "ant"}
    return changed(default.get_config(), **data, **sizes, evaluation__transfer=spec)


def test_domains_of_office_home_are_cut_as_the_runs_own_pictures(tmp_path):
    homes = jpegs.folder(tmp_path / "home", train=10, test=5, parts=("Art", "Real_World"))
    spec = f"folder:{homes / 'Art'}, folder:{homes / 'Real_World'}"
    given = config(tmp_path, spec)
    data_config.check_there(given)
    found = Scenario(given).transfer
    assert [title for title, _ in found] == ["Art", "Real_World"]
    art, real = (read() for _, read in found)
    assert (len(art.train_labels), len(art.test_labels)) == (32, 8)
    assert (len(real.train_labels), len(real.test_labels)) == (16, 4)
    assert art.image_shape == (16, 16, 3)


def refused(tmp_path, spec):
    with pytest.raises(InputError) as caught:
        data_config.check_there(config(tmp_path, spec))
    assert str(caught.value).startswith("evaluation.transfer = ")
    return caught.value.remedy


def test_sets_that_cannot_be_measured_are_refused_before_any_work(tmp_path):
    for place in ("a", "b"):
        jpegs.folder(tmp_path / place / "Art", names=("ant", "bee"), parts=("train", "other"))
    spec = f"folder:{tmp_path}/a/Art,folder:{tmp_path}/b/Art"
    assert refused(tmp_path, spec).startswith("two sets would be called Art")
    says = "folder: has no folder test or val or validation beside train; add one"
    assert refused(tmp_path, f"folder:{tmp_path}/a/Art") == says
    assert refused(tmp_path, f"folder:{tmp_path}/none").startswith("folder: no such folder")
    assert refused(tmp_path, "caltech_birds2012").startswith("caltech_birds2012: no such set")
