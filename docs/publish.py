"""Takes a study's numbers into the documentation, and makes what is shown of them.

    python -m docs.publish SCENARIO WORKDIR       # copies WORKDIR/results, then makes the pages
    python -m docs.publish GRID/SCENARIO WORKDIR  # the same for ``ablation`` and ``crossing``
    python -m docs.publish                        # makes the pages from docs/results alone

WORKDIR is that of ``ec_jax.sweep``, with configs/sweeps/methods.py or the grid's file. A cell of
the former becomes ``docs/results/SCENARIO/METHOD-seedN.json``, with the config that it ran with
beside its numbers, a grid ``GRID/SCENARIO.json`` there.
From these files are made ``docs/results.md`` and its pictures, the table in the README and its
picture, and the verdicts in ``docs/audit.md``; a test compares.
"""

import functools
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docs import grids, study
from docs.study import IMAGES, ROOT, SCENARIOS
from ec_jax import command, config_file, recipes
from ec_jax import config as config_lib
from ec_jax.errors import InputError
from ec_jax.report import plots, table, tradeoff
from ec_jax.workdir import FREE, check_workdir, write_json, write_whole

AUDITED = ("ec", "head_distill")  # in docs/audit.md, of the seed
AUDIT_SEED = 1
READING = {
    "digits": """\
How to read it: 37 images are to be forgotten. The further oracles are themselves .04 to .05 from
the oracle by the gap in the features, and the verdict calls one of their nine runs superficial.
Differences of .02 are chance. What can be told:

- `head_distill` and `damp` have about the oracle's accuracies and leave the features as they were.
  `finetune` forgets nothing, although its recipe erased the class in the search: at the same
  learning rate it does so with one network and not with the next.
- EC erases the class with every seed. It is no less like the original than what is tuned at the
  logits: `gradient_ascent` and `l1_sparse` have learning rates around .5 and move the features as
  far. It does not bring them to the oracle's: its CKA to the oracle is *below* the original's, and
  the variance of its features on the forgotten digit is 8 times the original's.
- `ec_guided` erases the class with every seed, too, but its gap in the features is .126 ± .031,
  larger than plain EC's: the search, by one seed, chose a learning rate of .9 for it, with which
  the networks of the seeds go different ways. `proxy_distill`, which learns from the same proxy
  without a contrast, is nearer by both numbers for as many FLOPs, `l1_sparse` (by the gap) and
  `cola` (by CKA) for a third of them.
- On top of another method EC mostly lowers the similarity to the original, and brings few hosts
  nearer to the oracle. `finetune` forgets with it, for .1 points of retain accuracy; of `delete` it
  damages two models of three, of `scrub` one.
- A network trained from scratch at a fifth of the oracle's cost is as near to it as a further
  oracle is, and nearer by gap and by CKA than any unlearning method. Digits are so cheap to learn
  that unlearning does not pay.
- The search looked at seed 0 and at one number, the distance to the oracle. It chose high learning
  rates, which cost most methods, EC's among them, one to two points of retain accuracy.
""",
    "fashion_mnist_one": """\
How to read it: 1000 test images of one class are to be forgotten, with the recipes that were found
for three: how far recipes carry to another request is a part of the question. The seeds of a row
differ by .01 to .02 in the gap; further oracles have .035 to .041. What can be told:

- **`l1_sparse`, `cola` and `ec_guided` are the nearest to the oracle in the features**, alike
  within the spread of the seeds and little further than another oracle is; by CKA they are as near.
  They pay 2.0 to 2.8 points of retain accuracy. `finetune` is almost as near for 1.0 point and a
  tenth of the oracle's FLOPs.
- **EC forgets with every seed**, at 2.5 points. Its last two stages stay *more* like the original's
  than the oracle's do, by .12 to .22: what it did not do on three classes. To the oracle it is not
  much nearer than the original is, and it says of 26 % of the forgotten images what the oracle says
  (`ec_guided`: 74).
- A network trained from scratch for as many FLOPs as EC takes is as near as a further oracle for
  .9 to 1.4 points, not told apart from `ec_guided` by these seeds. For as many images as a gradient
  method reads it loses 4.9 points, and two models of three count as damaged.
- EC on top of another method lowers the gap of about half of the hosts, by .02 and more that of
  `scrub`, `boundary_expand` and `gradient_ascent`.
- What does not carry over: `random_label`, `boundary_expand`, `opc`, `damp`, `salun` with two seeds
  and `scrub` with one do not forget. The two best settings of `ssd` on three classes cost 28 points
  here with seed 0, and are passed over.
""",
    "fashion_mnist_three": """\
How to read it: 3000 test images of three classes are to be forgotten, so that chance is small; the
seeds of one row differ by .01 in the gap, and so do further oracles. What can be told:

- By the gap no method is as near to the oracle as a network trained from scratch; by CKA the
  nearest are as near. For as many images as EC reads, or as many FLOPs as it takes, such a network
  is as near as a further oracle by both numbers, and *erased* with every seed; what it lacks is .1
  to 3.4 points of retain accuracy. With an oracle that costs a few minutes unlearning does not pay.
- **EC forgets at the logits and is *superficial* with every seed.** Its features are as unlike the
  original's as the oracle's are, and less like them than those of the methods at the logits but one
  (`random_label`, which is equal within the seeds' spread and does not forget). But they still tell
  the forgotten classes apart, nearly as the original's do: a new head trained on few images names
  92 % of them (original 97, oracle 82). They are not the oracle's: by CKA they are further from it
  than the original's are.
- **Of all methods `l1_sparse` alone is *erased* with every seed**, with EC and without, for 1.4
  points of retain accuracy (.4 with EC): a penalty on the weights, at a high learning rate, with
  cross-entropy on the retain set. `ec_guided`, `ec_proxy`, `unsir` and `cola` are with two seeds
  of three, for .7, 2.6, 1.8 and 2.1 points.
- **`ec_guided` ties with `unsir` and `unsir+ec` for the smallest gap in the features**, about a
  further oracle's, and keeps .7 to 1.1 points more of accuracy than they do; with its first seed
  the features have gone 47 % of the way where 50 are asked. By CKA it is as near to the oracle as
  further oracles are and far nearer than plain EC; `proxy_distill` and `cola` are the nearest. It
  takes 56 % of the oracle's FLOPs, `l1_sparse` and `cola` 13.
- EC on top of another method mostly moves the features away from the original's. The gap to the
  oracle falls by .02 and more only for `scrub` and `boundary_expand`, which forget little alone;
  CKA to the oracle falls with most.
- `random_label`, `salun`, `boundary_expand`, `ssd`, `opc`, `damp` and, with two seeds of three,
  `bad_teacher` and `scrub` do not forget with their recipe. Of `damp` what forgets damages the
  model of another seed, and is passed over for what does not.
""",
    "fashion_mnist_samples": """\
How to read it: 1,200 training images of all classes are to be forgotten. The oracle, which never
saw them, names 89 % of them, the original all but a few. *Erased* is here a model whose answers do
not show that it saw them: an accuracy within five points of the oracle's, and membership inference
that is nearer to the oracle's than to the original's. Of the features the verdict asks nothing, and
they say little: the original's are as like the oracle's, by CKA, as those of other oracles, and the
gap in the features differs from seed to seed by .01 to .05. What can be told:

- **Plain EC does not forget samples**: with every seed it still names 96 % of them. The rest of
  their classes is in the retain set. `ec_targeted` and `ec_calibrated` do no better, and
  **`ec_pseudo` damages the model** with every seed, by 13.5 points of retain accuracy: do not use
  it for samples.
- **What forgets does so by no longer fitting any training image so closely.** Every row that is
  *erased* with all seeds, oracles aside, loses 5 to 12 points on the *kept* training images, too:
  the oracle names 99.4 % of them, `ec_guided` 91.9, `finetune` 90.3, `scar` 94.4, a network trained
  from scratch for as many FLOPs as `ec_guided` 93.5. On test images that costs from nothing to 3.9
  points: `ec_guided` .6 and `finetune`, at a fifth of the FLOPs, 1.0, not told apart by these
  seeds.
- So no method brings the answers to the oracle's. At the logits the original is 3.7 ± .3 points
  away, all of it by the forgotten images; no method is under 3.1, mostly by the kept ones. Further
  oracles have .5 to .8, rows from scratch 2.2 to 7.2.
- **The nearest in the features is `unsir`**, .031 ± .010, and with EC added .022 ± .009, for 2.8
  and 2.1 points and 26 and 54 % of the FLOPs; from scratch for 44 % it is .031 ± .009, for .3
  points. `l1_sparse` follows, .041 ± .032, not told apart from `salun` or `ec_guided`. No setting
  of `unsir` passes on held-out images: two damage the model of seed 0, four that of seed 1, and two
  fail there.
- EC on top lowers the similarity to the original by more than .01 and clearly for two hosts:
  `contrastive`, which does not forget with it either, and `gradient_ascent`, for 5.6 points. It
  gives back .6 to 1.4 points of retain accuracy to `finetune`, `l1_sparse`, `salun` and `cola` at
  the same verdict, saves a model that `random_label` damages, and damages one more with
  `pseudo_label`.
- `random_label` and `pseudo_label` lose 5.1 and 6.0 points with one seed, where 5 are allowed;
  `boundary_shrink` loses 15 with every seed. `delete`, `opc`, `damp`, `ssd`, `gradient_ascent`,
  `scrub`, `pour_d` and `contrastive` do not forget with their recipes. `contrastive` would with a
  rate of .3, which was tried; the score, one half of it features, preferred .1.
""",
    "crossing/digits": """\
How to read it: CKA to the oracle on images to be forgotten, mean and standard deviation over the
seeds. Every method runs a quarter, half, once and twice its recipe's steps, and training from
scratch 5 to 80 % of the oracle's updates, beside an original (and an oracle) that were trained for
half, once and twice their epochs. Hollow is a point of which a model is damaged; of guided EC's
last one in the third panel a model is lost: with one seed the features collapsed, and the run
stopped. Right of 100 % unlearning is dearer than retraining.

- **By CKA unlearning does not begin to pay on digits, at any length.** No point is above that of
  5 % from scratch, the least that was tried; one equals it (`cola`, once its steps: the run for
  which it was picked), eight more lie within the seeds' spread. From scratch for 5 % keeps 95.9,
  97.5 and 98.6 % of retained images right. By the gap in the features `cola` is mostly not told
  apart from it.
- Below 5 % nothing from scratch was run; `cola` with half its steps, 3.4 % of the twice as long
  retraining, is *erased* with every seed and keeps 97.5 %.
- EC goes away from the oracle the longer it runs, from once to twice its steps hardly in the first
  two panels; `l1_sparse` does so in the first, and from half its steps in the second. Fewer steps
  are no answer: half or a quarter of them damage 14 of EC's 18 models and 16 of `l1_sparse`'s.
- EC and `ec_guided` with their recipes' steps or more lie below the original in every panel.
- Learning rates were searched for the recipes' steps and the config's epochs alone. An oracle that
  costs hours is another question, which digits cannot answer.
""",
    "ablation/fashion_mnist_three": """\
How to read it: all is measured on training images that were held out, with the recipe that the
search chose for `ec` and for `ec_guided` there. The seeds differ among each other by more than most
rows do: the differences named are those of the second table, taken seed by seed.

- **What the contrast needs is both candidate sets.** Without the forget samples among the
  candidates the features stay where they were (CKA to original .94), without the retain samples
  they overshoot; either way some seeds do not forget. A temperature of .5 and BatchNorm in training
  mode, at this recipe's learning rate, do not forget either.
- **The first two stages alone damage the model**; the last alone forgets at the logits and is
  superficial in every seed (gap in the features .018 ± .011 above the default's).
- **Weighting the later stages more is worse, not better**: `linear`, `geometric` and `late` have a
  larger mean gap in the features than `uniform`, `reversed` a smaller one (by .007 ± .002), which
  it pays for at the logits (+.6 ± .3 points). A tie by the number that the search goes by:
  `uniform` stays.
- **λ and τ trade.** λ = 3 or τ = .05 is *erased* in three seeds of three, at .7 to .8 points less
  retain accuracy than the default, which is so in one.
- **Longer is not nearer**: with half of the steps the gap in the features is smaller (by .009 ±
  .006) and with twice as many larger, while retain accuracy goes the other way.
- **Fresh modules** leave one seed of three not forgotten. `pool` and `mlp` modules cost .6 of the
  FLOPs, have a higher CKA to the oracle in the mean of the seeds but not in each, and lose .9 and
  1.7 points of retain accuracy. The sum of the weights does nothing here: the gradient is clipped.
- **What erases in guided EC is mostly the learning rate.** Trained on the retain set alone, at its
  rate of .27 and in BatchNorm's inference mode, a network has the same gap in the features (lower
  by .001 ± .004); no seed of it is *erased*, though, and one still names 2.5 % of the forgotten
  images. **What the proxy's answers add** is that every seed forgets, and nearness by CKA: without
  them it is .048 ± .025 lower, without contrast and answers .030 ± .017.
- **The contrast is not needed beside the answers**: without it the gap is .005 ± .003 smaller, and
  without any of EC's terms .007 ± .009; CKA to the oracle and retain accuracy are lower by less
  than the seeds' spread. But `proxy_distill` alone, at such a rate, damaged a model of the study
  and is passed over there. At the last point, too, the contrast costs .124 ± .030 of the CKA to
  the oracle.
- BatchNorm in training mode is .9 ± .1 points nearer at the logits, and *superficial* with every
  seed.

The defaults of `ec` are what it leaves: candidates `both`, τ .1, uniform weights, all points,
pretrained `conv` modules, BatchNorm in inference mode.
""",
}
HEAD = """\
# Results

Made by `python -m docs.publish` from the files under `docs/results`, one a run. Cells are the mean
± the standard deviation over seeds 0, 1 and 2. Machine: 2 CPU cores, no accelerator. No number is
the paper's. What the columns are: [metrics.md](metrics.md); the methods: [methods.md](methods.md).
CKA is that of images to be forgotten, the mean over all stages but the first; **the target of every
number is the oracle's, not zero.** Of Fashion-MNIST a seed draws its own 12,000 training images, so
that what is to be forgotten differs from seed to seed, too.

**In short.** The networks are small and their oracles cost minutes; what is found here need not
hold where retraining is dear. On classes of Fashion-MNIST most methods bring the answers to the
oracle's and leave much of the features where they were. On digits and three classes EC takes the
features about as far from the original's as an oracle's are, on one class two thirds of the way. It
does not take them to the oracle's: by CKA that loses about .1 in three scenarios of four, and gains
nothing certain in the fourth. Nearest to the oracle are methods that train hard on the retain set,
alone (`finetune`), with a penalty (`l1_sparse`), a collapse of classes (`cola`), impair and repair
(`unsir`) or a proxy oracle (`proxy_distill`); which of them, depends on the request. `ec_guided`,
the variant of EC that is shipped, is among them on Fashion-MNIST's classes, not on digits. A
network trained from scratch for as much compute is as near as any. Random samples, whose classes
stay, plain EC does not forget; `ec_guided` does, and so do nine methods without a proxy, plain
`finetune` at a fifth of its FLOPs. Below the oracle's similarity lower is not better: questions (a)
and (b) ask for it because the paper claims it.

**How the recipes were found.** Every method has the one that eight trials (`damp` six) on held-out
training images of seed 0 gave it (`python -m ec_jax.tune`; all trials: `docs/results/tuning`);
`fashion_mnist_one` takes those of three classes. With EC added a method keeps its recipe, and the
variants of EC have that of `ec`. Where the best trials collapse or damage the model of another seed
or request they are passed over (`passed_over` there): with five methods on digits, four on
Fashion-MNIST's classes and four on its samples. Held-out images of seeds 1 and 2 show the damage
(`--confirm=1,2`) of three on digits, one on classes and all four on samples; the others are passed
over by runs of the study, that is by test images. Held-out images are no warrant: on samples they
let `random_label` and `pseudo_label` pass, which damage one model of three in the study and were
left so, and `unsir` has no setting there that they let pass, and damages no model of the study.
Every setting of `boundary_shrink` damages the model of samples. One seed is not enough to choose
by: `finetune` on digits and `scrub` on three classes forget with one network and not with the next.

**Where EC was looked at more closely than others.** What was searched had been set after a first
search on the same held-out images, in which many of the best settings lay at an edge; a dozen
settings of EC more were looked at there, to choose the number of steps, and of guided EC some 50 on
Fashion-MNIST, of which no record is kept. One more look was at test images: the form that guided EC
now has was tried after `proxy_distill+ec`, at the learning rate .3 that is passed over today, had
the smallest gap of the study on three classes (.034 and .041, seeds 0 and 1). On three classes
`ec_guided` is therefore chosen by what it is shown on. What speaks for it on held-out images is the
ablation, and that credits its rate and the proxy's answers, not the terms of EC in it.

The FLOPs are those of unlearning with its modules and its proxy. A process had one core (`taskset
-c 0`): with two, sums are taken in another order, and numbers differ as those of seeds do. The runs
shown took {hours:.1f} hours of such a process, half of that where two processes share seeds and
rows evenly (`--seeds`, `--rows`); ablation and the grid over compute come on top. All images of a
step go through the network in one pass: of `finetune`, `l1_sparse` and `cola`, which go on taking
BatchNorm's statistics, these hold the forget batch once EC is added, so that the difference is not
EC's loss alone.

The controls: `untrained` is a network with random weights; `oracle_same_start`, `oracle_b` and
`oracle_c` are three more retrained networks, the first from the original's own initial weights, the
others from other seeds: the ceiling of any closeness. `scratch_matched` is a fresh network trained
on as many retained images as a method reads that reads both sets: the row to beat. A method that
reads one of them is cheaper than it. The others of that name are trained for about as many FLOPs as
EC takes, and as EC with a proxy. `head_distill` teaches the
head alone to leave the classes out.
"""
QUESTIONS = """\
(a) Is plain EC less like the original, on images to be forgotten, than every method that works at
the logits, at a retain accuracy within 1.5 points of the oracle's? (b) Does EC as a plug-in lower
that similarity for at least four hosts, for at most a point of retain accuracy? (c) Has
`ec_guided`, the variant of EC that is shipped, a smaller gap in the features than every method
without EC, and a larger CKA to the oracle, at least half-way from the nearest method at the logits
to further oracles? (d) Is it nearer to the oracle, by both, than a network trained from scratch for
as many FLOPs? *Unclear* is what lies within one standard deviation of the seeds' differences.
"""
ANSWERS = """\
The questions were put for Fashion-MNIST with one class and with three. On digits 37 forgotten
images make differences of a few hundredths chance. Of samples the features of the original are as
near to the oracle's by CKA as another oracle's: (a) to (c) say little there.
"""


def publish(name: str, workdir: Path) -> None:
    """Takes over a sweep's numbers, once it is seen to be one of the scenario's config.

    Args:
      name: SCENARIO, of the study, or GRID/SCENARIO.
      workdir: of the sweep.

    Raises:
      InputError: no such scenario, or the sweep is of another config.
    """
    grid, _, scenario = name.rpartition("/")
    if scenario not in SCENARIOS or (grid and grid not in grids.SWEEPS):
        listed = f"one of {', '.join(SCENARIOS)}, or {'|'.join(grids.SWEEPS)}/ before it"
        raise InputError("SCENARIO", name, listed)
    config = recipes.complete(config_file.load(SCENARIOS[scenario])).unlock()
    config.update_from_flattened_dict(grids.SETTINGS.get(grid, {}))
    files = sorted((workdir / "results").glob("*.json"))
    if not files:
        raise InputError("WORKDIR", str(workdir), "holds no results; give that of a sweep")
    check_workdir(config, workdir)
    if grid:
        grids.take(grid, scenario, files)
        return
    target = study.RESULTS / scenario
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.json"):
        old.unlink()
    for path in files:
        metrics = json.loads(path.read_text())
        write_json(target / path.name, {**metrics, "config": settings(path, workdir)})


def settings(result: Path, workdir: Path) -> dict[str, Any]:
    """{dotted field: value} of what a cell ran with, without what has no say in its numbers."""
    row, _, seed = result.stem.rpartition("-seed")
    cell = json.loads((workdir / "cells" / row / f"seed{seed}" / "config.json").read_text())
    found = config_lib.flatten(cell).items()
    return {field: value for field, value in found if not field.startswith(FREE)}


def load(scenario: str, method: str = "ec") -> list[dict]:
    """The metrics of every published seed, ascending."""
    folder = study.RESULTS / scenario
    runs = [json.loads(p.read_text()) for p in folder.glob(f"{method}-seed*.json")]
    return sorted(runs, key=lambda run: run["scenario"]["seed"])


def results_page() -> str:
    """``docs/results.md``."""
    parts = [HEAD.format(hours=study.hours())]
    if answers := study.answers_table():
        parts.append(f"## What the study was to answer\n\n{QUESTIONS}\n{answers}\n{ANSWERS}")
    parts += [section for scenario in SCENARIOS if (section := _section(scenario))]
    return "\n".join(parts)


def _section(scenario: str) -> str:
    """What was measured of a scenario; nothing where nothing was."""
    found = [_study(scenario)] if load(scenario) else []
    found += [_grid(grid, scenario) for grid in grids.SWEEPS if grids.load(grid, scenario)]
    return "\n".join([f"## {scenario}\n", *found]) if found else ""


def _study(scenario: str) -> str:
    about = load(scenario)[0]["scenario"]
    what = about.get("forget", ", ".join(about["forget_names"]))
    return (
        f"{about['model']}; forgotten: {what}; {_images(about)}\n\n"
        f"{_command(scenario, 'configs/sweeps/methods.py', scenario)}\n"
        f"{study.main_table(scenario)}\n{study.summary(scenario)}\n{READING.get(scenario, '')}\n"
        f"{_shown(study.pictures(scenario))}\n"
    )


def _grid(grid: str, scenario: str) -> str:
    command = _command(scenario, grids.SWEEPS[grid], f"{grid}_{scenario}", grids.SETTINGS[grid])
    return (
        f"### {scenario}: {grids.TITLES[grid]}\n\n{command}\n"
        f"{grids.shown(grid, scenario)}{_shown(grids.pictures(grid, scenario))}\n"
        f"{READING.get(f'{grid}/{scenario}', '')}"
    )


def _command(
    scenario: str, sweep: str, name: str, settings: Mapping[str, Any] = MappingProxyType({})
) -> str:
    flags = [f"--config.{field}={value}" for field, value in settings.items()]
    flags = [
        f"--config={SCENARIOS[scenario]}",
        *flags,
        f"--sweep={sweep}",
        f"--workdir=runs/study/{name}",
    ]
    return f"    python -m ec_jax.sweep {' '.join(flags)}\n"


def _shown(pictures: Mapping[str, tradeoff.Plot]) -> str:
    return "\n\n".join(f"![{plot.title}](images/{name})" for name, plot in pictures.items())


def _images(about: dict) -> str:
    n = about["images"]
    return (
        f"{n['forget_train'] + n['retain_train']} training images and "
        f"{n['forget_test'] + n['retain_test']} test images, of which {n['forget_train']} and "
        f"{n['forget_test']} to be forgotten"
    )


def _with_block(text: str, marker: str, shown: str) -> str:
    """A page with what a marked block of it shows."""
    block = f"<!-- {marker} -->\n```text\n{shown}\n```"
    return re.sub(rf"<!-- {marker} -->\n```text\n.*?```", lambda _: block, text, flags=re.S)


def readme() -> str:
    """The README with the table of the digits run of the lowest seed."""
    text = (ROOT / "README.md").read_text()
    return _with_block(text, "digits", table.text(load("digits")[0]).strip("\n"))


def audit_page() -> str:
    """``docs/audit.md`` with the verdicts on a digits run and its control."""
    text = (ROOT / "docs" / "audit.md").read_text()
    for method in AUDITED:
        run = load("digits", method)[AUDIT_SEED]  # both are needed: the page compares them
        status = int(table.judged(run)[0].name != "erased")
        text = _with_block(text, f"audit {method}", f"{table.verdict_text(run)}\n\n{status}")
    return text


def main(arguments: list[str]) -> None:
    """The command."""
    parser = command.Parser(prog="python -m docs.publish", description=__doc__)
    parser.add_argument("scenario", metavar="SCENARIO", nargs="?")
    parser.add_argument("workdir", metavar="WORKDIR", nargs="?")
    found = parser.parse(arguments)
    if found.scenario:
        if not found.workdir:
            raise InputError("WORKDIR", None, "give that of ec_jax.sweep")
        publish(found.scenario, Path(found.workdir))
    pages = {"docs/results.md": results_page, "README.md": readme, "docs/audit.md": audit_page}
    for name, text in {name: page() for name, page in pages.items()}.items():
        (ROOT / name).write_text(text)
    write_whole(
        IMAGES / "digits_cka.png", functools.partial(plots.cka_per_stage, load("digits")[0])
    )
    for name, plot in pictures().items():
        write_whole(IMAGES / name, lambda part, p=plot: part.write_bytes(tradeoff.png(p)))


def pictures() -> dict[str, tradeoff.Plot]:
    """{file name: plot} of the page."""
    found: dict[str, tradeoff.Plot] = {}
    for scenario in SCENARIOS:
        found |= study.pictures(scenario)
        for grid in grids.SWEEPS:
            found |= grids.pictures(grid, scenario)
    return found


if __name__ == "__main__":
    command.finish(lambda: main(sys.argv[1:]))
