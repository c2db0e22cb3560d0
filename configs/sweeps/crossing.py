"""Where does unlearning begin to pay? Closeness to the oracle against the compute spent.

Unlearning with a quarter to twice the config's steps, and training from scratch for a share of the
oracle's, each for an original (and an oracle) trained for half, once and twice the config's epochs.

Command:  python -m ec_jax.sweep --config=configs/digits.py --sweep=configs/sweeps/crossing.py \
              --config.evaluation.metrics=accuracy,cka,knn,probe,variance,agreement,gap \
              --workdir=runs/study/crossing_digits
Measured: digits, seeds 0 to 2 (docs/results.md).
"""

LENGTHS = (0.5, 1.0, 2.0)  # times the config's epochs of the original
METHODS = {  # EC and what it ships, and the nearest to the oracle of the others by gap and by CKA
    "ec": {"method": "ec"},
    "ec_guided": {"method": "ec_guided"},
    "l1_sparse": {"method": "l1_sparse"},
    "cola": {"method": "cola"},
}
BUDGETS = (0.25, 0.5, 1.0, 2.0)  # times the config's steps
SHARES = (0.05, 0.1, 0.2, 0.4, 0.8)  # of the oracle's updates


def get_rows(config):
    """{row: settings}; a row is LENGTHxMETHOD-BUDGET."""
    rows = {}
    for length in LENGTHS:
        epochs = {"original.epochs": length * config.original.epochs}
        for name, settings in METHODS.items():
            for budget in BUDGETS:
                steps = max(round(budget * config.unlearn.steps), 1)
                row = {**settings, **epochs, "unlearn.steps": steps}
                rows[f"{length:g}x-{name}-{budget:g}"] = row
        for share in SHARES:
            row = {"method": "retrain", **epochs, "retrain.share": share}
            rows[f"{length:g}x-scratch-{share:g}"] = row
    return rows
