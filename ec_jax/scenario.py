"""The scenario of a run: data, what is to be forgotten, the network, and the devices."""

import functools
from typing import Any

import jax

from ec_jax import config as config_lib
from ec_jax import parallel
from ec_jax.data import augment, groups, sources, splits
from ec_jax.models.network import Network, Variables, build


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

    def __init__(self, config: Any):
        """Makes the checks that need no data.

        Raises:
          InputError: the devices do not go with the config, or the data cannot be had.
        """
        self.config = config
        self.mesh = parallel.make_mesh(config.parallel.devices)
        sources.check(config.data.name, config.data.data_dir, config.data.manual_dir)
        self._groups = config_lib.label_groups(config)
        self._named = config_lib.forget_classes(config)
        self._earlier = config_lib.earlier_classes(config)
        self.forget_labels = config_lib.labels(config, self._named)
        self.class_names = (
            self._groups[1] if self._groups else sources.class_names(config.data.name)
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

    @functools.cached_property
    def data(self) -> sources.Dataset:
        """The set, in memory.

        Raises:
          InputError: it cannot be had, or is damaged.
        """
        data = self.config.data
        found = sources.load(
            data.name,
            data_dir=data.data_dir,
            manual_dir=data.manual_dir,
            subset=data.subset,
            seed=self.config.seed,
        )
        if data.validation:
            found = splits.hold_out(found, data.validation)
        return groups.grouped(found, *self._groups) if self._groups else found

    @functools.cached_property
    def splits(self) -> dict[str, Any]:
        """{split: indices into the training or test images}."""
        forget = self.config.forget
        samples = splits.parse_samples(forget.classes, len(self.data.train_labels), forget.seed)
        return splits.split(self.data, self._named, samples, self._earlier)

    @functools.cached_property
    def moments(self) -> tuple[Any, Any]:
        """Mean and deviation of the training images, by which all images are normalised."""
        return augment.moments(self.data.train_images)

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
        network, shape = self.network(modules=False), sources.image_shape(self.config.data.name)
        variables = jax.eval_shape(lambda: network.init(jax.random.key(0), shape))
        return {c: tree["backbone"] for c, tree in variables.items()}

    def describe(self) -> dict[str, Any]:
        """What is measured on what, for a file of results; without method and seed."""
        c = self.config
        return {
            "dataset": c.data.name,
            "forget_classes": list(self.forget_classes),
            "forget_names": [self.class_names[i] for i in self.forget_classes],
            **self._in_part(),
            **self._before(),
            "images": {split: len(rows) for split, rows in self.splits.items()},
            "model": f"{c.model.name}{c.model.depth}-w{c.model.width}",
            "points": list(self.network().points),
            "features": c.evaluation.features,
        }

    def _before(self) -> dict[str, list]:
        """The classes forgotten before, where there are some."""
        if not self._earlier:
            return {}
        names = sources.class_names(self.config.data.name)
        named = [names[i] for i in self._earlier]
        return {"earlier_classes": list(self._earlier), "earlier_names": named}

    def _in_part(self) -> dict[str, str]:
        """What is forgotten in words, where it is no whole label."""
        if self.forget_classes:
            return {}
        if not self._named:
            return {"forget": f"{len(self.splits['forget_train'])} training images"}
        names = sources.class_names(self.config.data.name)
        return {"forget": "sub-class " + ", ".join(names[i] for i in self._named)}
