"""The experiment: original → oracle → proxy → modules → unlearn → evaluate → report.

Every stage leaves its result in the workdir and is done when the result is there; a
stage that was cut off goes on from its newest checkpoint. A second start of the same
command therefore does what is missing and nothing else.
"""

import functools
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ec_jax import checkpoint, methods, parallel, rng
from ec_jax import config as config_lib
from ec_jax import workdir as workdir_lib
from ec_jax.checkpoint import Checkpoints
from ec_jax.errors import InputError
from ec_jax.evaluation.features import Features
from ec_jax.evaluation.measure import measure
from ec_jax.models.network import Network, Variables
from ec_jax.report import html, plots, table
from ec_jax.scenario import Scenario
from ec_jax.training import prepare, supervised
from ec_jax.training.loop import train
from ec_jax.training.optimizer import make_optimizer
from ec_jax.training.plan import Training, plan
from ec_jax.training.state import create
from ec_jax.training.steps import make_steps

SCHEMA = 1
# {model: stage}
MODELS = {"original": "original", "oracle": "oracle", "proxy": "proxy", "unlearned": "unlearn"}
MEASURED = ("original", "oracle", "unlearned")
BROUGHT = ("original", "oracle")  # stages whose model may be brought along, by STAGE.checkpoint
# {stage: stages whose results it reads}
NEEDS = {
    "modules": ("original",),
    "unlearn": ("original", "modules", "proxy"),
    "evaluate": ("original", "oracle", "unlearn"),
    "report": ("evaluate",),
}


def checked(config: Any, scenario: Scenario | None = None) -> tuple[Scenario, methods.Method]:
    """The scenario and the method of a config, after the checks that need no data and no folder.

    Args:
      config: a validated config.
      scenario: its own, where it is not the config's.

    Raises:
      InputError: the devices do not go with the config, or the method cannot be made or cannot
        forget what is to be forgotten.
    """
    scenario = scenario or Scenario(config)
    method = methods.build(config, scenario.network(modules=False).points)
    method.check(scenario.forget_labels)
    config_lib.check_batches(config, scenario.mesh.size)
    return scenario, method


class Experiment:
    """One config run in one workdir."""

    def __init__(
        self,
        config: Any,
        workdir: str | Path,
        command: str = "",
        known: Mapping[str, Mapping[str, float]] | None = None,
        seen: Mapping[str, Mapping[str, Features]] | None = None,
        scenario: Scenario | None = None,
    ):
        """Makes every check that can be made before work starts.

        Args:
          config: a validated config.
          workdir: made by ``run``, not here.
          command: by which the run was started, for its report.
          known: {model: its numbers} of models that need not be measured again.
          seen: {model: its features} of models that need not be run over the images again.
          scenario: as for ``checked``.

        Raises:
          InputError: the data, the devices or a checkpoint do not go with the config.
        """
        self.config = config
        self.workdir = Path(workdir).absolute()
        self.stages = config_lib.stage_names(config)
        self._command, self._known, self._seen = command, known, seen
        self.scenario, self._method = checked(config, scenario)
        self._check_there()
        for stage in BROUGHT:
            if path := self._brought(stage):
                shapes = self.scenario.model_shapes()
                checkpoint.check_model(path, shapes, f"{stage}.checkpoint")
                shape = self.scenario.image_shape
                checkpoint.check_origin(path, f"{stage}.checkpoint", config, shape)
        if self.stages != ("report",):  # which reads what evaluate left
            _ = self.scenario.splits
            self._check_finished()

    def run(self) -> None:
        """Runs the stages that are asked for and not done."""
        self.workdir.mkdir(parents=True, exist_ok=True)
        workdir_lib.write_resolved(self.config, self.workdir)
        self._write_normalization()
        for stage in self.stages:
            if stage in ("evaluate", "report"):
                getattr(self, f"_{stage}")()
            elif path := self._brought(stage):
                found = checkpoint.find_model(path, f"{stage}.checkpoint")
                print(f"{stage}: taken from {found}", flush=True)
            elif self._unused(stage):
                print(f"{stage}: {self.config.method} needs none", flush=True)
            else:
                self._train(stage)
            parallel.wait(stage)  # what one of them has written the others read

    def _write_normalization(self) -> None:
        """Leaves what a user of the model must know of its images."""
        path = self.workdir / workdir_lib.NORMALIZATION
        if self.stages != ("report",) and not path.exists():
            mean, std = (row.tolist() for row in map(np.asarray, self.scenario.moments))
            workdir_lib.write_json(path, {"mean": mean, "std": std})

    def _brought(self, stage: str) -> str:
        """The checkpoint that takes a stage's place, or nothing."""
        return self.config[stage].checkpoint if stage in BROUGHT else ""

    def _unused(self, stage: str) -> bool:
        """The method has no use for the stage."""
        if stage == "modules":
            return not self._method.uses_modules
        return stage == "proxy" and "proxy" not in self._method.needs

    # Trainings.

    def _training(self, stage: str) -> Training:
        points = self.scenario.network(modules=False).points
        return plan(stage, self.config, self.scenario.splits, points, self._method)

    def _train(self, stage: str) -> None:
        training = self._training(stage)
        checkpoints = self._checkpoints(stage)
        try:
            if checkpoints.latest_step() == training.steps:
                print(f"{stage}: done", flush=True)
                return
            began, batches, extras = time.monotonic(), prepare.Batches(self.scenario), {}
            network = self.scenario.network(training.modules)
            start = self._start(stage, training, network)
            if method := training.method:
                names = ("original", *method.needs)
                models = {name: self.model(name) for name in names}
                context = prepare.context(self.scenario, models, batches)
                if method.closed_form:
                    edited = jax.device_get(method.edit(context))
                    start = {c: {"backbone": tree} for c, tree in edited.items()}
                else:
                    training, start = prepare.with_parameters(training, start, context)
                    extras = method.prepare(context)
            optimizer = make_optimizer(
                self.config[training.group].optimizer,
                training.steps,
                head_only=training.head_only,
            )
            state = create(network, start, optimizer, training.trained, tuple(training.streams))
            state = parallel.replicate(state, self.scenario.mesh)
            before = {"seconds": 0.0, "images": 0, "flops": 0}
            if method:
                before = prepare.cost(time.monotonic() - began, method, context, batches)
            if not training.steps:  # a closed form, or modules.epochs = 0: fresh modules
                checkpoints.save(state, {**before, "steps": 0})
                return
            train(
                stage,
                state,
                make_steps(self.scenario, training, network, optimizer, extras),
                steps=training.steps,
                checkpoints=checkpoints,
                log_every=self.config.report.log_every,
                min_spread=training.min_spread,
                remedy=self._remedy(stage, training.group),
                folder=self.workdir / "tensorboard",
                before=before,
            )
        finally:
            checkpoints.close()

    def _remedy(self, stage: str, group: str) -> str:
        new = "start anew in another workdir"
        if stage not in ("original", "oracle"):
            found = self.config.original.checkpoint or self.workdir / "checkpoints" / "original"
            new += f" with --config.original.checkpoint={found}"
        return (
            f"lower {group}.optimizer.learning_rate, or its clip or weight_decay, and {new}; "
            "the last good checkpoint is kept"
        )

    def _start(self, stage: str, training: Training, network: Network) -> Variables:
        """The variables at step 0 of a training."""
        if stage == "unlearn" and self._method.uses_modules:
            return self._pretrained(network)
        key = rng.key(self.config.seed, training.initial, "init")
        variables = _init(network, key, self.scenario.data.image_shape)
        if stage == "modules" or (stage == "unlearn" and self._method.fresh is None):
            for collection, tree in self.model("original").items():
                variables[collection]["backbone"] = tree
        return variables

    def _pretrained(self, network: Network) -> Variables:
        """What the stage `modules` left: the original backbone with its modules."""
        optimizer = make_optimizer(self.config.modules.optimizer, 1)

        def start():
            variables = network.init(jax.random.key(0), self.scenario.data.image_shape)
            return create(network, variables, optimizer, ("modules",), (supervised.STREAM,))

        checkpoints = self._checkpoints("modules")
        try:
            state, _ = checkpoints.restore(jax.eval_shape(start))
        finally:
            checkpoints.close()
        return {"params": state.params, "batch_stats": state.batch_stats}

    # Models.

    def model(self, name: str) -> Variables:
        """The backbone's {"params", "batch_stats"} of a trained model."""
        stage = MODELS[name]
        path = self._brought(stage) or self.workdir / "checkpoints" / stage
        return checkpoint.load_model(path, self.scenario.model_shapes())

    def metrics(self) -> dict[str, dict[str, float]]:
        """{model: its numbers}, once they were measured."""
        return json.loads((self.workdir / "metrics.json").read_text())["models"]

    def _checkpoints(self, stage: str) -> Checkpoints:
        c = self.config.checkpoint
        return Checkpoints(self.workdir / "checkpoints" / stage, c.every, c.keep)

    # Checks.

    def _forerunners(self) -> Iterator[tuple[str, str]]:
        """(stage, forerunner): what is asked for and needs what is not."""
        for stage in self.stages:
            for need in NEEDS.get(stage, ()):
                if not (need in self.stages or self._brought(need) or self._unused(need)):
                    yield stage, need

    def _check_there(self) -> None:
        """Refuses stages whose forerunners have left nothing."""
        for stage, need in self._forerunners():
            folder = self.workdir / "checkpoints" / need
            result = self.workdir / "metrics.json" if need == "evaluate" else folder
            if not (result.is_file() or checkpoint.latest_step(folder) is not None):
                remedy = f"{stage} needs {need}, which {self.workdir} does not hold; add {need}"
                raise InputError("stages", self.config.stages, remedy)

    def _check_finished(self) -> None:
        """Refuses stages whose forerunners were cut off: what is built on them would stay."""
        for stage, need in self._forerunners():
            if need == "evaluate":
                continue
            step = checkpoint.latest_step(self.workdir / "checkpoints" / need)
            steps = self._training(need).steps
            if step != steps:
                remedy = f"{stage} needs {need}, which is at step {step} of {steps}; add {need}"
                raise InputError("stages", self.config.stages, remedy)

    # Evaluation and report.

    def _evaluate(self) -> None:
        target = self.workdir / "metrics.json"
        if parallel.any_process(target.exists()):
            print("evaluate: done", flush=True)
            return
        began = time.monotonic()
        found = {name: self.model(name) for name in MEASURED}
        models, details = measure(self.scenario, found, known=self._known, seen=self._seen)
        self._doubt(models["original"].get("accuracy/retain_test"))
        cost = {stage: self._cost(stage) for stage in ("original", "oracle", "modules", "unlearn")}
        if not self._unused("proxy"):
            cost["proxy"] = self._cost("proxy")
        scenario = self.scenario.describe()
        cost["evaluate"] = {
            "seconds": round(time.monotonic() - began, 3),
            "images": len(MEASURED) * sum(scenario["images"].values()),
        }
        plugged = "+ec" if self.config.ec.plugin else ""
        scenario |= {"method": self.config.method + plugged, "seed": self.config.seed}
        workdir_lib.write_json(self.workdir / "details.json", details | {"command": self._command})
        workdir_lib.write_json(
            target, {"schema": SCHEMA, "scenario": scenario, "models": models, "cost": cost}
        )

    def _doubt(self, kept: float | None) -> None:
        """Tells of an original that was brought along and knows nothing of the classes."""
        if self._brought("original") and kept is not None:
            chance = 100 / len(self.scenario.class_names)
            if kept <= 1.5 * chance:
                print(
                    f"evaluate: the original is right on {kept:.1f} % of the images to be kept, as "
                    "chance would be: do the classes of data stand in the order of its outputs?",
                    flush=True,
                )

    def _cost(self, stage: str) -> dict[str, float] | None:
        if self._brought(stage) or self._unused(stage):
            return None
        checkpoints = self._checkpoints(stage)
        try:
            return checkpoints.cost()
        finally:
            checkpoints.close()

    def _report(self) -> None:
        if not parallel.primary():
            return
        metrics = json.loads((self.workdir / "metrics.json").read_text())
        kept = self.workdir / "details.json"  # it is not needed for the numbers
        details = json.loads(kept.read_text()) if kept.exists() else {}
        config = config_lib.resolved(self.config)
        files = {
            "report.html": functools.partial(html.write, metrics, details, config),
            "table.md": functools.partial(table.write, metrics),
            "cka.png": functools.partial(plots.cka_per_stage, metrics),
        }
        for name, write in files.items():
            if not (self.workdir / name).exists():
                workdir_lib.write_whole(self.workdir / name, write)
        print(table.text(metrics), flush=True)
        print(f"Written to {self.workdir}: metrics.json, {', '.join(files)}", flush=True)


# Compiled once for the trainings that start from the same network.
_init = jax.jit(lambda network, key, shape: network.init(key, shape), static_argnums=(0, 2))
