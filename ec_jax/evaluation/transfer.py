"""What the features are worth on another set: k nearest neighbours among its own images."""

from collections.abc import Callable, Iterable, Mapping

from jax.sharding import Mesh

from ec_jax import parallel, processes
from ec_jax.data.sources import Dataset
from ec_jax.errors import InputError
from ec_jax.evaluation import knn
from ec_jax.evaluation.features import Forward, extract

Sets = Iterable[tuple[str, Callable[[], Dataset]]]


def measure(
    forwards: Mapping[str, Forward],
    sets: Sets,
    batch_size: int,
    neighbors: int,
    mesh: Mesh | None = None,
) -> dict[str, dict[str, float]]:
    """``transfer/SET/POINT``: accuracy of k-NN on a set that no model was trained on, in percent.

    The bank is the set's training images, the queries are its test images. A set near to what is
    forgotten (birds, where birds are) tells whether the features still tell such images apart,
    without asking for any of the forgotten images.

    Args:
      forwards: {model: as for ``features.extract``}.
      sets: (name, what reads it) each; one is in memory at a time.
      batch_size: images a call of a model.
      neighbors: k, one vote each.
      mesh: of the devices, of all processes; None: one device.

    Returns:
      {model: {key: percent in [0, 100]}}; NaN where features are not finite.

    Raises:
      InputError: a set has fewer training images than neighbours are asked for.
    """
    found: dict[str, dict[str, float]] = {model: {} for model in forwards}
    for name, read in sets if forwards else ():
        data = processes.by_first(read, f"transfer, {name}")
        if neighbors > (images := len(data.train_labels)):
            remedy = f"{name} has {images} training images; at most that"
            raise InputError("evaluation.neighbors", neighbors, remedy)
        parts = {
            part: extract(
                forwards,
                images,
                labels,
                batch_size,
                f"evaluate: {name}, {part}",
                part=parallel.part() if mesh else (0, 1),
            )
            for part, images, labels in (
                ("train", data.train_images, data.train_labels),
                ("test", data.test_images, data.test_labels),
            )
        }
        for model, numbers in found.items():
            bank, queries = parts["train"][model], parts["test"][model]
            classes = len(data.class_names)
            accuracy = knn.accuracies(queries, [bank], neighbors, classes, mesh=mesh)
            numbers |= {f"transfer/{name}/{point}": value for point, value in accuracy.items()}
    return found
