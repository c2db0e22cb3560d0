"""The page of the study: ``docs/results.md`` and its pictures, from the files in docs/results."""

import functools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from configs.sweeps import methods
from ec_jax.evaluation import gap
from ec_jax.evaluation.target import forget_split
from ec_jax.report import comparison, costs, markup, table, tradeoff
from ec_jax.report import runs as runs_lib
from ec_jax.report.comparison import Row
from ec_jax.report.summary import Spread, spread

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
IMAGES = ROOT / "docs" / "images"
SCENARIOS = {  # {scenario: the config that it is}
    "digits": "configs/digits.py",
    "fashion_mnist_one": "configs/fashion_mnist.py:one",
    "fashion_mnist_three": "configs/fashion_mnist.py:three",
    "fashion_mnist_samples": "configs/fashion_mnist.py:samples",
}
SHOWN = (  # in pictures, which more would fill
    "oracle_b",
    "scratch_matched_ec",
    "head_distill",
    "l1_sparse",
    "ec",
    "ec_guided",
)
LOGITS = (*methods.LOGITS, "delete")  # they say what the output must be, and nothing of features
FURTHER = ("oracle_same_start", "oracle_b", "oracle_c")
SHIPPED = "ec_guided"  # of EC's variants
SEEDS = 3  # of a whole row
UNCOUNTED = ("references", "controls")
SMALL = 0.001  # a smaller difference is none
SEEN = 0.01  # a smaller fall in CKA is none
ANEW = "scratch_matched_proxy"  # trained for as many FLOPs as what is shipped takes


@functools.cache
def compared(scenario: str, only: tuple[str, ...] = ()) -> comparison.Comparison | None:
    """The published runs of a scenario side by side; of ``only`` these rows, if any are named."""
    files = sorted((RESULTS / scenario).glob("*-seed*.json"))
    kept = [f for f in files if not only or f.stem.rpartition("-seed")[0] in only]
    found = [runs_lib.read(str(f)) for f in kept]
    return comparison.compare(found)[0] if found else None


def rows(scenario: str) -> dict[str, Row]:
    """{name: row} of a scenario, with what the page reckons from the runs."""
    found = compared(scenario)
    if found is None:
        return {}
    by_run = {(r.method, r.seed): r for r in found.runs}
    out = {}
    for row in found.rows:
        numbers = []
        for seed, mine in zip(row.seeds, row.numbers, strict=True):
            run = by_run.get((row.label, seed)) or next(r for r in found.runs if r.seed == seed)
            numbers.append(completed(run, mine, row.kind))
        out[row.label] = Row(row.label, row.kind, row.seeds, tuple(numbers), row.verdicts)
    return out


def completed(run: runs_lib.Run, values: Mapping[str, float], kind: str) -> dict[str, float]:
    """A model's numbers with what is reckoned from the run: variance and FLOPs as shares.

    Args:
      run: the run.
      values: the numbers of one of its models.
      kind: which one that is: ``original``, ``oracle`` or ``method``.
    """
    points = run.scenario["points"]
    # Runs that were measured before there was closeness have what it is made of.
    out = {**gap.derive(values, {}, points), **values}
    key = f"variance/{forget_split(values)}/{points[-1]}"
    if key in values and run.models["original"].get(key):
        out["variance/share"] = values[key] / run.models["original"][key]
    spent = {"original": None, "oracle": 100.0}
    share = spent[kind] if kind in spent else table.share(run.cost, "flops", modules=True)
    return out if share is None else out | {"cost/flops": share}


def kinds(names: Iterable[str]) -> dict[str, list[str]]:
    """{what they are: rows}; every row is in one."""
    left = list(names)
    ec = [n for n in left if n == "ec" or n.startswith("ec_")]
    out = {
        "references": [n for n in ("original", "oracle") if n in left],
        "controls": [n for n in left if n in (*methods.CONTROLS, "head_distill") and n not in ec],
        "at the logits": [n for n in left if n in LOGITS],
        "EC and its variants": ec,
        "with EC added": [n for n in left if n.endswith("+ec")],
    }
    taken = {n for found in out.values() for n in found}
    out["other methods"] = [n for n in left if n not in taken]
    order = (
        "references",
        "controls",
        "at the logits",
        "other methods",
        "EC and its variants",
        "with EC added",
    )
    return {kind: out[kind] for kind in order if out[kind]}


def _columns(forget: str) -> tuple[tuple[str, str, int], ...]:
    name = forget.replace("_", ", ")
    return (
        (f"accuracy/{forget}", f"accuracy, {name} (%)", 1),
        ("accuracy/retain_test", "accuracy, retain, test (%)", 1),
        ("closeness/original", "CKA to original", 3),
        ("closeness/oracle", "CKA to oracle", 3),
        ("gap/logit", "gap, logits (points)", 1),
        ("gap/representation", "gap, features", 3),
        (f"agreement/{forget}", "agreement with the oracle (%)", 1),
        ("variance/share", "feature variance, of the original's", 2),
        ("cost/flops", "FLOPs (% of the oracle's)", 1),
    )


def rows_table(groups: Mapping[str, Iterable[Row]]) -> str:
    """Rows under a heading each, mean ± standard deviation over the seeds."""
    shown = [row for found in groups.values() for row in found]
    columns = _columns(forget_split(shown[0].numbers[0]))
    head = ["", "verdict", *(title for _, title, _ in columns)]
    lines = []
    for title, found in groups.items():
        lines.append([f"*{title}*", *[""] * (len(head) - 1)])
        for row in found:
            whole = len(row.seeds) == SEEDS or row.kind != "method"
            label = row.label if whole else f"{row.label} (n={len(row.seeds)})"
            cells = [comparison.cell(row.spread(key), digits).text for key, _, digits in columns]
            lines.append([markup.markdown_escape(label), row.verdict() or "–", *cells])
    return markup.markdown(head, [False, False, *[True] * len(columns)], lines)


def main_table(scenario: str) -> str:
    """Every row of a scenario, the nearest features first."""
    mine = rows(scenario)

    def order(name: str) -> tuple[float, str]:
        return _mean(mine[name], "gap/representation"), name

    return rows_table(
        {kind: [mine[n] for n in sorted(names, key=order)] for kind, names in kinds(mine).items()}
    )


def _mean(row: Row | None, key: str) -> float:
    spread = row.spread(key) if row else None
    return spread.mean if spread else math.nan


# The four questions.


def answers(scenario: str) -> list[tuple[str, str, str]]:
    """(question, answer, the numbers it rests on)."""
    mine = rows(scenario)
    if not {"ec", "oracle", SHIPPED, *FURTHER, ANEW} <= mine.keys():
        return []
    return [_lower(mine), _plugged(mine), *_nearest(mine)]


def _lower(mine: Mapping[str, Row]) -> tuple[str, str, str]:
    """(a) Is plain EC further from the original than every method at the logits?"""
    key, kept = "closeness/original", "accuracy/retain_test"
    name = min(
        (n for n in (*LOGITS, "head_distill") if n in mine), key=lambda n: _mean(mine[n], key)
    )
    further = difference(mine[name], mine["ec"], key)
    lost = difference(mine["oracle"], mine["ec"], kept)
    said = (
        f"CKA to original {_beside(mine, 'ec', name, key)}; oracle "
        f"{_mean(mine['oracle'], key):.3f}; retain accuracy below the oracle's by {_told(lost, 1)}"
    )
    return "a", _all(further) if lost.mean <= 1.5 else "no", said


def _plugged(mine: Mapping[str, Row]) -> tuple[str, str, str]:
    """(b) Does EC lower it for at least four hosts, for at most a point of accuracy?"""
    key, kept = "closeness/original", "accuracy/retain_test"
    hosts = [n.removesuffix("+ec") for n in mine if n.endswith("+ec")]
    good = []
    for name in (host for host in hosts if host in mine):
        lower = difference(mine[name], mine[f"{name}+ec"], key)
        lost = difference(mine[name], mine[f"{name}+ec"], kept)
        if _all(lower) == "yes" and lower.mean >= SEEN and lost.mean <= 1.0:
            good.append(name)
    said = f"{len(good)} of {len(hosts)} hosts: {', '.join(good) or 'none'}"
    if still := [name for name in good if not forgets(mine[f"{name}+ec"])]:
        said += f"; with EC, too, {len(still)} of them do not forget: {', '.join(still)}"
    return "b", "yes" if len(good) >= 4 else "no", said


def _nearest(mine: Mapping[str, Row]) -> list[tuple[str, str, str]]:
    """(c) Is the EC that is shipped the nearest to the oracle? (d) Nearer than training anew?"""
    apart, near = "gap/representation", "closeness/oracle"
    split, ours = kinds(mine), mine[SHIPPED]
    others = [*split["at the logits"], *split.get("other methods", [])]
    rival = min(others, key=lambda n: _mean(mine[n], apart))
    closest = max(others, key=lambda n: _mean(mine[n], near))
    logit = max((n for n in LOGITS if n in mine), key=lambda n: _mean(mine[n], near))
    ceiling = sum(_mean(mine[name], near) for name in FURTHER) / len(FURTHER)
    way = ceiling - _mean(mine[logit], near)
    closed = _mean(ours, near) - _mean(mine[logit], near)

    def compared_to(by_gap: str, by_cka: str) -> tuple[str, str]:
        gap = difference(mine[by_gap], ours, apart)
        cka = difference(ours, mine[by_cka], near)
        said = (
            f"gap in the features {_beside(mine, SHIPPED, by_gap, apart)}; "
            f"CKA to oracle {_beside(mine, SHIPPED, by_cka, near)}"
        )
        return _all(gap, cka), said

    answer, said = compared_to(rival, closest)
    if way <= 0:
        said += f"; {logit} is as near as further oracles ({ceiling:.3f})"
    elif closed < 0.5 * way:
        answer = "no"
        said += f"; not half-way from {logit} to further oracles ({ceiling:.3f})"
    anew, saving = compared_to(ANEW, ANEW)
    costs = " and ".join(f"{_mean(mine[n], 'cost/flops'):.0f} %" for n in (SHIPPED, ANEW))
    return [("c", answer, said), ("d", anew, f"{saving}; FLOPs {costs}")]


def hours() -> float:
    """Hours of one process for all published scenarios, as their runs recorded them."""
    seconds = 0.0
    for scenario in SCENARIOS:
        shared: dict[tuple[int, str], float] = {}
        for run in compared(scenario).runs if compared(scenario) else ():
            spent = {stage: cost["seconds"] for stage, cost in run.cost.items() if cost}
            seconds += spent.pop("unlearn") + spent.pop("evaluate")
            shared |= {(run.seed, stage): value for stage, value in spent.items()}
        seconds += sum(shared.values())
    return seconds / 3600


def forgets(row: Row) -> bool:
    """It forgets with most seeds: what the verdict goes by first."""
    return 2 * sum(verdict == "not forgotten" for verdict in row.verdicts) < len(row.verdicts)


def works(row: Row) -> bool:
    """With most seeds it forgets and leaves the model whole."""
    failed = sum(verdict in ("not forgotten", "damaged") for verdict in row.verdicts)
    return 2 * failed < len(row.verdicts)


def summary(scenario: str) -> str:
    """What can be counted in the main table, in words."""
    mine = rows(scenario)
    methods = [n for kind, found in kinds(mine).items() if kind not in UNCOUNTED for n in found]
    erased = {n: sum(v == "erased" for v in mine[n].verdicts) for n in methods}
    every = [n for n in methods if erased[n] == len(mine[n].seeds)]
    most = [n for n in methods if 1 < erased[n] < len(mine[n].seeds)]
    hosts = [n.removesuffix("+ec") for n in mine if n.endswith("+ec")]
    counts = {
        key: sum(sign * difference(mine[f"{h}+ec"], mine[h], key).mean > SMALL for h in hosts)
        for key, sign in (
            ("closeness/original", -1),
            ("closeness/oracle", 1),
            ("gap/representation", -1),
        )
    }
    away, near, gap = counts.values()
    return (
        f"Counted: *erased* with every seed are {_listed(every)}; with two of three "
        f"{_listed(most)}. Of {len(hosts)} hosts EC on top makes {away} less like the original, "
        f"brings {near} nearer to the oracle by CKA and {gap} by the gap in the features (means "
        f"over the seeds, by more than {SMALL}).\n"
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def difference(row: Row, base: Row, key: str) -> Spread | None:
    """A row's number minus another's, over the seeds that both have; None where there is none."""
    other = dict(zip(base.seeds, base.numbers, strict=True))
    pairs = [(mine, other[s]) for s, mine in zip(row.seeds, row.numbers, strict=True) if s in other]
    known = all(key in numbers for pair in pairs for numbers in pair)
    return spread([mine[key] - theirs[key] for mine, theirs in pairs]) if known else None


def _all(*wanted: Spread) -> str:
    """Are all of them above zero? A mean within its deviation of zero is no answer."""
    if any(found.mean <= -(found.deviation or 0.0) for found in wanted):
        return "no"
    return "yes" if all(found.mean > (found.deviation or 0.0) for found in wanted) else "unclear"


def _beside(mine: Mapping[str, Row], name: str, other: str, key: str) -> str:
    """A row's mean, another's, and the difference."""
    apart = _told(difference(mine[name], mine[other], key), 3)
    return (
        f"{_mean(mine[name], key):.3f} ({other} {_mean(mine[other], key):.3f}, difference {apart})"
    )


def _told(found: Spread, digits: int) -> str:
    return comparison.cell(found, digits).text


def answers_table() -> str:
    """The answers of all scenarios that have them."""
    lines = [
        [f"({question})", scenario, f"**{answer}**", said]
        for scenario in SCENARIOS
        for question, answer, said in answers(scenario)
    ]
    lines.sort(key=lambda line: line[0])
    return markup.markdown(
        ["", "scenario", "answer", "means over the seeds; differences are taken seed by seed"],
        [False] * 4,
        lines,
    )


# Pictures.


def pictures(scenario: str) -> dict[str, tradeoff.Plot]:
    """{file name: plot} of a scenario."""
    found = compared(scenario, SHOWN)
    if found is None:
        return {}
    wanted = ("gaps", "cka_to_original", "cka_to_oracle", "probe")
    plots = tradeoff.plots(found)
    made = {f"{scenario}_{name}.png": plots[name] for name in wanted if name in plots}
    points = {
        name: (_mean(row, "cost/flops"), _mean(row, "closeness/oracle"))
        for name, row in rows(scenario).items()
        if name not in ("original", "oracle", "untrained")  # far from all that is to be told apart
    }
    known = {n: p for n, p in points.items() if all(map(math.isfinite, p))}
    if len(known) > 1:
        failing = {n for n, row in rows(scenario).items() if row.verdicts and not works(row)}
        made[f"{scenario}_cost.png"] = costs.scatter(known, kinds(known), failing)
    return made
