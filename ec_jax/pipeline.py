"""The experiment: original → oracle → proxy → modules → unlearn → evaluate → report.

Every stage leaves its result in the workdir and is done when the result is there; a
stage that was cut off goes on from its newest checkpoint. A second start of the same
command therefore does what is missing and nothing else.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ec_jax import checkpoint, digests, imported, methods, parallel, processes, records, rng
from ec_jax import config as config_lib
from ec_jax import workdir as workdir_lib
from ec_jax.checkpoint import Checkpoints
from ec_jax.errors import InputError
from ec_jax.evaluation.details import environment
from ec_jax.evaluation.features import Features
from ec_jax.evaluation.measure import measure
from ec_jax.models.network import Network, Variables
from ec_jax.records import Records
from ec_jax.report import files
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
                imported.check_origin(path, f"{stage}.checkpoint", config, shape)
        if self.stages != ("report",):  # which reads what evaluate left
            _ = self.scenario.splits
            self._check_finished()

    def run(self) -> None:
        """Runs the stages that are asked for and not done.

        Raises:
          InputError: another run is in the workdir, or what this one began with is another now.
          TrainingError: training could not go on.
        """
        self._check_same()
        with contextlib.ExitStack() as held:
            lock, where = workdir_lib.locked(self.workdir), str(self.workdir)
            processes.first_alone(lambda: held.enter_context(lock), "workdir", where)
            workdir_lib.write_resolved(self.config, self.workdir)
            self._records = Records(self.workdir, self._about)
            with self._records.watch(records.config_digest(config_lib.resolved(self.config))):
                self._write_normalization()
                for stage in self.stages:
                    self._run(stage)
                    processes.wait(stage)  # what one of them has written the others read

    def _run(self, stage: str) -> None:
        if stage == "evaluate":
            self._evaluate()
        elif stage == "report":
            if processes.primary():
                files.write(self.workdir, config_lib.resolved(self.config), self._records)
        elif path := self._brought(stage):
            found = checkpoint.find_model(path, f"{stage}.checkpoint")
            print(f"{stage}: taken from {found}", flush=True)
            self._note_model(stage)
        elif self._unused(stage):
            print(f"{stage}: {self.config.method} needs none", flush=True)
        else:
            self._mend(stage)
            self._note_model(stage, made=self._train(stage))

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

    def _check_same(self) -> None:
        """Refuses processes of which one has other data."""
        if not processes.alone() and self.stages != ("report",):
            data = records.data(self.scenario)
            processes.check_same({split: found["sha256"] for split, found in data.items()})

    # Records.

    def _about(self) -> dict[str, Any]:
        """What the record of a start says."""
        config = config_lib.resolved(self.config)
        found = records.start(config, self._command, environment())
        if self.stages != ("report",):
            found["data"] = records.data(self.scenario)
            self._records.check_data(found["data"])
        return found

    def _mend(self, stage: str) -> None:
        """Sets damaged checkpoints of a stage aside, and says so."""
        folder = self.workdir / "checkpoints" / stage
        for found in checkpoint.mend(folder):
            left = checkpoint.latest_step(folder)
            following = "none before it: from the start" if left is None else f"on from step {left}"
            self._records.add("fault", stage=stage, **found)
            print(
                f"{stage}: the checkpoint of step {found['step']} is damaged ({found['reason']}), "
                f"and set aside as {Path(found['moved']).name}; {following}",
                flush=True,
            )

    def _note_model(self, stage: str, made: bool = False) -> None:
        """Records which model a stage left or was given."""
        field = f"{stage}.checkpoint" if self._brought(stage) else "checkpoint"
        found = checkpoint.identity(self._place(stage), self.scenario.model_shapes(), field)
        known = self._records.last("stage end", stage)
        if self._brought(stage) and known and known["parameters"] != found["parameters"]:
            remedy = "is another model than the one this run began with; choose another workdir"
            raise InputError(field, self._brought(stage), remedy)
        if Path(found["path"]).is_relative_to(self.workdir):
            found["path"] = str(Path(found["path"]).relative_to(self.workdir))
        self._records.note(stage, made, brought=bool(self._brought(stage)), **found)

    # Trainings.

    def _training(self, stage: str) -> Training:
        points = self.scenario.network(modules=False).points
        return plan(stage, self.config, self.scenario.splits, points, self._method)

    def _train(self, stage: str) -> bool:
        """Trains what is missing of a stage, if anything is."""
        training = self._training(stage)
        checkpoints = self._checkpoints(stage)
        try:
            step = checkpoints.latest_step()
            if step == training.steps:
                print(f"{stage}: done", flush=True)
                return False
            begun = {"step": step} if step else {}
            event = "resume" if step else "stage start"
            self._records.add(event, stage=stage, steps=training.steps, **begun)
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
            group = self.config[training.group].optimizer
            optimizer = make_optimizer(group, training.steps, head_only=training.head_only)
            state = create(network, start, optimizer, training.trained, tuple(training.streams))
            state = parallel.replicate(state, self.scenario.mesh)
            before = {"seconds": 0.0, "images": 0, "flops": 0}
            if method:
                before = prepare.cost(time.monotonic() - began, method, context, batches)
            models = context = start = None  # training needs their memory
            if not training.steps:  # a closed form, or modules.epochs = 0: fresh modules
                checkpoints.save(state, {**before, "steps": 0})
                return True
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
                profile=self.config.report.profile,
                before=before,
            )
        finally:
            checkpoints.close()
        return True

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
        return checkpoint.load_model(self._place(MODELS[name]), self.scenario.model_shapes())

    def _place(self, stage: str) -> str | Path:
        return self._brought(stage) or self.workdir / "checkpoints" / stage

    def metrics(self) -> dict[str, dict[str, float]]:
        """{model: its numbers}, once they were measured."""
        return workdir_lib.read_metrics(self.workdir)["models"]

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
            folder = self.workdir / "checkpoints" / need
            step, steps = checkpoint.latest_step(folder), self._training(need).steps
            if step == steps and (why := checkpoint.damage(folder / str(step))):
                remedy = f"{stage} needs {need}, whose {folder / str(step)} is damaged ({why}); "
                remedy += f"add {need}, which then goes on from the checkpoint before"
                raise InputError("stages", self.config.stages, remedy)
            if step != steps:
                remedy = f"{stage} needs {need}, which is at step {step} of {steps}; add {need}"
                raise InputError("stages", self.config.stages, remedy)

    # Evaluation and report.

    def _evaluate(self) -> None:
        target = self.workdir / "metrics.json"
        if processes.any_process(target.exists()):
            print("evaluate: done", flush=True)
            self._note_metrics(target, made=False)
            return
        for name in MEASURED:
            self._note_model(MODELS[name])
        self._records.add("stage start", stage="evaluate")
        began = time.monotonic()
        found = {name: self.model(name) for name in MEASURED}
        models, details = measure(self.scenario, found, known=self._known, seen=self._seen)
        if self._brought("original"):
            imported.doubt(models["original"], len(self.scenario.class_names))
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
        self._note_metrics(target, made=True)

    def _note_metrics(self, path: Path, made: bool) -> None:
        if workdir_lib.writes():  # another process need not see the file yet
            self._records.note("evaluate", made, sha256=digests.of_file(path))

    def _cost(self, stage: str) -> dict[str, float] | None:
        if self._brought(stage) or self._unused(stage):
            return None
        checkpoints = self._checkpoints(stage)
        try:
            return checkpoints.cost()
        finally:
            checkpoints.close()


# Compiled once for the trainings that start from the same network.
_init = jax.jit(lambda network, key, shape: network.init(key, shape), static_argnums=(0, 2))
