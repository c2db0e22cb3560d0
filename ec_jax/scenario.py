"""The scenario of a run: data, what is to be forgotten, the network, and the devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ec_jax import data_config, parallel, processes, rules
from ec_jax.data import augment, groups, sources, splits
from ec_jax.data.pictures import Pictures
from ec_jax.errors import InputError
from ec_jax.models.network import Network, Variables, build

TRANSFER_RESIZE = 256 / 224  # the shorter side against the cut, where the config says nothing
RESIDENT = 2**30  # bytes of training images that are kept on every device


class Scenario:
    """What a validated config says of data, model and devices; the data are loaded when used.

    Attributes:
      config: the config.
      mesh: of the devices.
      forget_classes: ids of the labels to forget, ascending: none where samples are forgotten,
        or classes that share their label with others that stay.
      forget_labels: ids of the labels that lose something, ascending; none where samples are
        forgotten.
      earlier_classes: ids of the labels of which nothing is left since earlier requests.
      class_names: of the labels.
    """

    def __init__(self, config: Any, mesh: Mesh | None = None):
        """Makes the checks that need no data.

        Args:
          config: a validated config.
          mesh: of devices that need not be there; of the data then nothing is asked. None: of the
            devices that the config asks for.

        Raises:
          InputError: the devices do not go with the config, or the data cannot be had.
        """
        self.config = config
        self.mesh = mesh or parallel.make_mesh(config.parallel.devices)
        if not mesh:
            sources.check(config.data.name, config.data.data_dir, config.data.manual_dir)
        self._groups = data_config.label_groups(config)
        self._named = data_config.forget_classes(config)
        self._earlier = data_config.earlier_classes(config)
        self.forget_labels = data_config.labels(config, self._named)
        self.class_names = (
            self._groups[1] if self._groups else data_config.about(config).class_names
        )
        self.forget_classes, self.earlier_classes = self._named, self._earlier
        if self._groups:
            gone = [set(group) <= set(self._earlier) for group in self._groups[0]]
            self.earlier_classes = tuple(i for i, all_of_it in enumerate(gone) if all_of_it)
            left = [set(group) - set(self._earlier) for group in self._groups[0]]
            whole = [i for i, part in enumerate(left) if part and part <= set(self._named)]
            # Else some labels lose a part only.
            in_full = sum(len(left[i]) for i in whole) == len(self._named)
            self.forget_classes = tuple(whole) if in_full else ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's images."""
        return data_config.about(self.config).image_shape

    @property
    def names(self) -> tuple[str, str]:
        """What a report calls the data and the model."""
        model = self.config.model
        return self.config.data.name, f"{model.name}{model.depth}-w{model.width}"

    @functools.cached_property
    def data(self) -> sources.Dataset:
        """The set.

        Raises:
          InputError: it cannot be had, or is damaged.
        """
        data = self.config.data
        read = functools.partial(
            sources.load,
            data.name,
            data_dir=data.data_dir,
            manual_dir=data.manual_dir,
            subset=data.subset,
            seed=self.config.seed,
            image_size=data.image_size,
            resize=data.resize,
            damaged=data.damaged,
        )
        found = processes.by_first(read, "data")  # who prepares it, where it is not prepared
        if data.validation:
            found = splits.hold_out(found, data.validation)
        return groups.grouped(found, *self._groups) if self._groups else found

    @property
    def pictures(self) -> bool:
        """The training images are files, which are cut and augmented when they are used."""
        return isinstance(self.data.train_images, Pictures)

    @functools.cached_property
    def resident(self) -> dict[str, jax.Array] | None:
        """The training images and their labels on every device; None where they do not fit.

        An image is one row: a TPU keeps whole maps with the images innermost, and would turn all
        of them at every call to read some.
        """
        images = self.data.train_images
        if self.pictures or images.nbytes > RESIDENT:
            return None
        rows = images.reshape(len(images), -1)
        return parallel.replicate({"image": rows, "label": self.data.train_labels}, self.mesh)

    @functools.cached_property
    def splits(self) -> dict[str, Any]:
        """{split: indices into the training or test images}."""
        forget = self.config.forget
        samples = splits.parse_samples(forget.classes, len(self.data.train_labels), forget.seed)
        found = splits.split(self.data, self._named, samples, self._earlier)
        for part in ("forget", "retain"):
            if not len(found[f"{part}_train"]):
                remedy = f"there is no training image to {part}; name others, or mend the data"
                raise InputError("forget.classes", forget.classes, remedy)
        return found

    @functools.cached_property
    def moments(self) -> tuple[Any, Any]:
        """float32 [c] each: mean and deviation by which all images are normalised."""
        given = rules.moments(self.config.data.normalize, self.image_shape[2])
        return tuple(map(np.float32, given)) if given else augment.moments(self.data.train_images)

    @property
    def transfer(self) -> list[tuple[str, Callable[[], sources.Dataset]]]:
        """(name, what reads it) of the other sets on which the features are measured."""
        data = self.config.data
        side = self.image_shape[0]
        resize = data.resize if data.image_size else round(side * TRANSFER_RESIZE)
        found = []
        for title, name, where in data_config.transfer_sets(self.config):
            manual, skip = data.manual_dir, data.damaged
            more = {"data_dir": where, "manual_dir": manual, "damaged": skip}
            read = functools.partial(sources.load, name, image_size=side, resize=resize, **more)
            found.append((title, read))
        return found

    @property
    def measured(self) -> dict[str, Any]:
        """The splits as far as they are measured: of training images so many as the config says.

        They are taken at equal distances, as a set may be ordered by class.
        """
        limit = self.config.evaluation.train_images

        def some(rows: Any) -> Any:
            return rows[np.arange(limit) * len(rows) // limit] if 0 < limit < len(rows) else rows

        return {s: some(rows) if s.endswith("_train") else rows for s, rows in self.splits.items()}

    def network(self, modules: bool = True) -> Network:
        """The network that the config describes."""
        return build(
            self.config.model,
            len(self.class_names),
            module_kind=self.config.modules.kind if modules else None,
            axis_name=parallel.AXIS,
        )

    def model_shapes(self) -> Variables:
        """Shapes and types of the backbone's {"params", "batch_stats"}; nothing is computed."""
        network, shape = self.network(modules=False), self.image_shape
        variables = jax.eval_shape(lambda: network.init(jax.random.key(0), shape))
        return {c: tree["backbone"] for c, tree in variables.items()}

    def describe(self) -> dict[str, Any]:
        """What is measured on what, for a file of results; without method and seed."""
        dataset, model = self.names
        return {
            "dataset": dataset,
            "forget_classes": list(self.forget_classes),
            "forget_names": [self.class_names[i] for i in self.forget_classes],
            **self._in_part(),
            **self._before(),
            "images": {split: len(rows) for split, rows in self.measured.items()},
            "model": model,
            "points": list(self.network().points),
            "features": self.config.evaluation.features,
        }

    def _before(self) -> dict[str, list]:
        """The classes forgotten before, where there are some."""
        if not self._earlier:
            return {}
        names = data_config.about(self.config).class_names
        named = [names[i] for i in self._earlier]
        return {"earlier_classes": list(self._earlier), "earlier_names": named}

    def _in_part(self) -> dict[str, str]:
        """What is forgotten in words, where it is no whole label."""
        if self.forget_classes:
            return {}
        if not self._named:
            return {"forget": f"{len(self.splits['forget_train'])} training images"}
        names = data_config.about(self.config).class_names
        return {"forget": "sub-class " + ", ".join(names[i] for i in self._named)}
