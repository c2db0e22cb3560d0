"""The programs of a run with the shapes of their arguments: no data are read, nothing is run.

They are those that training and evaluation run, made by the same functions.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ec_jax import config as config_lib
from ec_jax import data_config, parallel, pipeline, rng
from ec_jax import scenario as scenario_lib
from ec_jax.data import splits
from ec_jax.data.sources import Dataset
from ec_jax.errors import InputError, TrainingError
from ec_jax.evaluation import cka, measure, streamed, suite
from ec_jax.methods import Context, Method
from ec_jax.models.network import Network
from ec_jax.preflight import chips
from ec_jax.training import prepare
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.plan import Training, plan
from ec_jax.training.state import create
from ec_jax.training.steps import at_once, make_program, make_reads

# Stages whose steps differ; oracle and proxy train as the original does.
TRAININGS = ("original", "modules", "unlearn")
_A_FEW = 8  # images that a method prepares itself with
_A_CLASS = 1000  # training images of a class, where the set has not been counted


@dataclasses.dataclass(frozen=True)
class Program:
    """A program and what it is called with.

    Attributes:
      name: of the stage, and of the streams that its steps read where they differ.
      function: made by ``jax.jit``.
      arguments: their shapes, types and places.
      batch: images of a call, on all devices.
      held: bytes that a device holds beside the program's own.
      results: of other calls that a device holds meanwhile, each as large as this one's.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    batch: int
    held: int
    results: int = 0

    @property
    def size(self) -> int:
        """Bytes of the arguments on one device, without padding."""
        return _size(self.arguments)


class Unread(scenario_lib.Scenario):
    """A config's scenario without its data, on devices that need not be there."""

    def __init__(self, config: Any, mesh: Mesh):
        """Loads nothing.

        Args:
          config: validated; ``parallel.map`` is ``shard_map``, as no other takes such devices.
          mesh: of the devices.
        """
        super().__init__(config, mesh)
        shape, count = self.image_shape, _images(config)
        forget = config.forget
        nominal = count or _A_CLASS * len(self.class_names)
        samples = splits.parse_samples(forget.classes, nominal, forget.seed)
        classes = len(data_config.about(config).class_names)
        gone = nominal * len(self._named) // classes if samples is None else len(samples)
        gone = min(max(gone, 1), nominal - 1)
        nothing = np.zeros(0, np.int32)
        data = Dataset(
            config.data.name, self.class_names, np.zeros((0, *shape), np.uint8), *[nothing] * 5
        )
        kept, size = None, math.prod((count or 0, *shape))
        if 0 < size <= scenario_lib.RESIDENT and not self.pictures:
            kept = {"image": ((count, math.prod(shape)), np.uint8), "label": ((count,), np.int32)}
            kept = {k: placed(mesh, jax.ShapeDtypeStruct(*v)) for k, v in kept.items()}
        # In the places of the properties of the same names, which would read the data.
        self.__dict__ |= {
            "data": data,
            "splits": {"forget_train": np.arange(gone), "retain_train": np.arange(nominal - gone)},
            "resident": kept,
        }
        if config.data.normalize == "data":
            self.__dict__["moments"] = np.zeros(shape[2], np.float32), np.ones(shape[2], np.float32)

    @property
    def pictures(self) -> bool:
        """As of the scenario with its data."""
        return bool(self.config.data.image_size)


def _images(config: Any) -> int | None:
    """Training images; None where they are counted only when the set is read."""
    data, whole = config.data, data_config.about(config).train_size
    count = data.subset or whole
    return count and count - round(count * data.validation)


def mesh(topology: str) -> Mesh:
    """A mesh of the chips of a known topology, none of which is there.

    Raises:
      TrainingError: the compiler cannot be asked for them.
    """
    options = dict(chips.chip(topology).options)
    if chips.chips(topology) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except RuntimeError as error:
        raise TrainingError(f"{topology}: the compiler cannot be asked: {error}") from error
    return Mesh(np.array(found.devices), (parallel.AXIS,))


def placed(mesh: Mesh, tree: Any, *, cut: int | None = None) -> Any:
    """Shapes and types with their place: whole on every device, or cut along an axis."""
    where = NamedSharding(mesh, PartitionSpec() if cut is None else parallel.along(cut))
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=where), tree)


def programs(config: Any, mesh: Mesh) -> list[Program]:
    """The different programs of the stages that a config asks for.

    Args:
      config: validated.
      mesh: of the devices.

    Raises:
      InputError: the devices do not go with the config, or the method cannot be prepared without
        data.
    """
    config = config.copy_and_resolve_references().unlock()
    config.parallel.map = "shard_map"  # pmap compiles to the same
    scenario, method = pipeline.checked(config, Unread(config, mesh))
    stages, found = config_lib.stage_names(config), []
    for stage in _trained(config, stages, method):
        found += _training(scenario, method, stage)
    if "evaluate" in stages:
        found += _evaluation(scenario)
    if not found:
        remedy = "none of these has a step that is compiled; add unlearn or evaluate"
        raise InputError("stages", config.stages, remedy)
    return found


def _trained(config: Any, stages: Sequence[str], method: Method) -> list[str]:
    """Those of ``TRAININGS`` whose steps are run."""
    anew = any(s in stages and not config[s].checkpoint for s in pipeline.BROUGHT)
    anew |= "proxy" in stages and "proxy" in method.needs
    return [s for s in TRAININGS if (anew if s == "original" else s in stages)]


def _training(scenario: Unread, method: Method, stage: str) -> list[Program]:
    network = scenario.network(modules=False)
    training = plan(stage, scenario.config, scenario.splits, network.points, method)
    if not training.steps or (stage == "modules" and not method.uses_modules):
        return []
    network = scenario.network(training.modules)
    training, optimizer, state, extras = _start(scenario, training, network)
    program = make_program(scenario, training, network, optimizer).program
    key = jax.eval_shape(lambda: rng.key(scenario.config.seed, training.draw))
    shared = placed(scenario.mesh, {"key": key, "extras": extras})
    if scenario.resident:
        shared["data"] = scenario.resident
    if at_once(scenario) > 1:
        shared["count"] = placed(scenario.mesh, jax.ShapeDtypeStruct((), np.int32))
    state = placed(scenario.mesh, state)
    reads, found = make_reads(training), []
    kinds = list(dict.fromkeys(map(reads, range(training.steps))))
    for names in kinds:
        batch = {name: _batch(scenario, training.streams[name][1]) for name in names}
        # While a checkpoint's next step is tried on a copy (training/loop.py), the state itself
        # stays; and the next batch is on its way meanwhile.
        held = _size(state) + _size(batch)
        title = stage if len(kinds) == 1 else f"{stage} ({'+'.join(names)})"
        images = sum(training.streams[name][1] for name in names)
        found.append(Program(title, program, (state, shared, batch), images, held))
    return found


def _start(
    scenario: Unread, training: Training, network: Network
) -> tuple[Training, Any, Any, Any]:
    """The training with its method's parameters, the optimizer, and shapes of state and extras."""
    made, method = {}, training.method

    def start():
        variables, found = network.init(jax.random.key(0), scenario.image_shape), training
        if method:
            context = _context(scenario, method)
            found, variables = prepare.with_parameters(training, variables, context)
        recipe = scenario.config[found.group].optimizer
        optimizer = make_optimizer(recipe, found.steps, head_only=found.head_only)
        made.update(training=found, optimizer=optimizer)
        return create(network, variables, optimizer, found.trained, tuple(found.streams))

    state = jax.eval_shape(start)
    extras = _extras(scenario, method) if method else {}
    return made["training"], made["optimizer"], state, extras


def _extras(scenario: Unread, method: Method) -> Any:
    """Shapes of what a method prepares; where those hang on numbers, it is done with zeros.

    Raises:
      InputError: of zeros it cannot be.
    """
    try:
        return jax.eval_shape(lambda: method.prepare(_context(scenario, method)))
    except jax.errors.JAXTypeError:
        pass
    try:
        return method.prepare(_context(scenario, method))
    except (ArithmeticError, LookupError, ValueError) as error:
        remedy = "what it prepares depends on the data, which are not read here; leave out unlearn"
        name = scenario.config.method
        raise InputError("method", name, f"{remedy}, or take another method") from error


def _context(scenario: Unread, method: Method) -> Context:
    """What a method is given, all of it zeros, and of every pass over the images a few."""

    def batches(split, size):
        count = min(size, len(scenario.splits[split]), _A_FEW)
        labels = np.arange(count, dtype=np.int32) % len(scenario.class_names)
        yield jnp.zeros((count, *scenario.image_shape)), labels

    def zeros():
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), scenario.model_shapes())

    models = {name: zeros() for name in ("original", *method.needs)}
    return prepare.context(scenario, models, batches)


def _batch(scenario: Unread, size: int) -> Any:
    """What a call reads of one stream."""
    if (steps := at_once(scenario)) > 1:
        return placed(scenario.mesh, jax.ShapeDtypeStruct((steps, size), np.int32), cut=1)
    rows = jax.ShapeDtypeStruct((size,), np.int32)
    if scenario.resident:
        return placed(scenario.mesh, rows, cut=0)
    images = jax.ShapeDtypeStruct((size, *scenario.image_shape), np.uint8)
    return placed(scenario.mesh, {"image": images, "label": rows}, cut=0)


def _evaluation(scenario: Unread) -> list[Program]:
    devices, models = scenario.mesh, len(pipeline.MEASURED)
    variables = placed(devices, measure.as_network(scenario.model_shapes()))
    count = measure.batch_size(scenario)
    images = jax.ShapeDtypeStruct((count, *scenario.image_shape), np.uint8)
    images = placed(devices, images, cut=0)
    forward = measure.make_forward(scenario)
    # All models are on the devices, and each is called before the first one's results are read.
    others = (models - 1) * _size(variables) + _size(scenario.resident or {})
    found = [Program("evaluate", forward, (variables, images), count, others, models - 1)]
    if measure.compares_maps(scenario):
        maps = placed(devices, jax.eval_shape(forward, variables, images)[2], cut=0)
        references = len(suite.REFERENCES)
        state = placed(devices, jax.eval_shape(lambda: cka.init(models, references)))
        mask = placed(devices, jax.ShapeDtypeStruct((count,), bool))
        # Those of the other points, and the models.
        rest = models * (_size(maps) + _size(variables)) + _size(scenario.resident or {})
        update = streamed.make_update(devices)
        for point, array in maps.items():
            arguments = (state, (array,) * models, (array,) * references, mask)
            held = max(rest - (models + references) * _size(array), 0)
            found.append(Program(f"evaluate (CKA, {point})", update, arguments, count, held))
    return found


def _size(tree: Any) -> int:
    """Bytes of shapes on one device."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * _itemsize(a.dtype)
        for a in jax.tree.leaves(tree)
    )


def _itemsize(dtype: Any) -> int:
    # Of JAX's keys the type is no NumPy type; they are eight bytes.
    return 8 if jnp.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize
