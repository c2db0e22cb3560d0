"""The study: every method, EC on top of those that take it, EC's variants, and the controls.

Command:  python -m ec_jax.sweep --config=configs/digits.py --sweep=configs/sweeps/methods.py \
              --workdir=runs/study/digits
Measured: docs/results.md
"""

OWN = ("ec", "ec_guided")
CLOSED = ("damp", "ssd")  # no step, nothing to add EC to
LOGITS = ("finetune", "gradient_ascent", "random_label", "pseudo_label", "salun", "l1_sparse")
OTHERS = (
    "bad_teacher",
    "boundary_expand",
    "boundary_shrink",
    "cola",
    "contrastive",
    "delete",
    "duck",
    "opc",
    "pour_d",
    "proxy_distill",
    "scar",
    "scrub",
    "unsir",
)
CONTROLS = (
    "untrained",
    "oracle_same_start",
    "oracle_b",
    "oracle_c",
    "scratch_matched",
    "scratch_matched_ec",
    "scratch_matched_proxy",
)
# FLOPs of EC and its modules' training, as a multiple of those of a plain step: measured, as they
# depend on the network's width. A set without an entry takes the first.
EC_COST = {"digits": 1.6, "fashion_mnist": 2.3}
VARIANTS = {  # of EC, beyond the paper
    "ec_targeted": {"ec.targets": "pseudo"},
    "ec_pseudo": {"ec.pseudo": 1.0},
    "ec_proxy": {"ec.proxy": 1.0},
    "ec_calibrated": {"ec.calibrated": True},
    "ec_calibrated_proxy": {"ec.calibrated": True, "ec.proxy": 1.0},
}


def get_rows(config):
    """{row: settings}; a row is a method, a method with EC, a variant of EC, or a control."""
    hosts = (*LOGITS, *OTHERS)
    return {
        **{name: {"method": name} for name in (*OWN, *hosts, *CLOSED, "head_distill")},
        **{f"{name}+ec": {"method": name, "ec.plugin": True} for name in hosts},
        **{name: {"method": "ec", **settings} for name, settings in VARIANTS.items()},
        **controls(config),
    }


def controls(config):
    """What no method can be blamed for, and what each must beat."""
    images = config.unlearn.steps * (config.data.retain_batch_size + config.data.forget_batch_size)
    with_ec = round(EC_COST.get(config.data.name, EC_COST["digits"]) * images)
    return {
        "untrained": {"method": "retrain", "retrain.share": 0.0},
        "oracle_same_start": {"method": "retrain", "retrain.initial": "original"},
        "oracle_b": {"method": "retrain"},
        "oracle_c": {"method": "retrain", "retrain.draw": 1},
        # At the cost of a gradient method, of EC, and of EC with a proxy.
        "scratch_matched": _scratch(images),
        "scratch_matched_ec": _scratch(with_ec),
        "scratch_matched_proxy": _scratch(with_ec, config.proxy.share),
    }


def _scratch(images, share=0.0):
    return {"method": "retrain", "retrain.share": share, "retrain.images": images}
