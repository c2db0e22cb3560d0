"""Representation unlearning score (RUS): forgotten features and kept features in one number.

Made of the numbers of ``ec_jax.evaluation.cka``, not of features.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from ec_jax.evaluation.target import forget_split


def harmonic_mean(a: float, b: float) -> float:
    """2ab / (a + b): high only where both are.

    Args:
      a: in [0, 1], or NaN.
      b: in [0, 1], or NaN.

    Returns:
      In [0, 1]; 0 where both are 0, NaN where one is NaN.

    >>> harmonic_mean(0.5, 1.0), harmonic_mean(0.0, 0.0)
    (0.6666666666666666, 0.0)
    """
    # Written as quotients: the product of two tiny numbers would be 0.
    return 2 * a * (b / (a + b)) if a + b != 0 else 0.0


def derive(
    values: Mapping[str, float],
    references: Mapping[str, Mapping[str, float]],
    points: Sequence[str],
) -> dict[str, float]:
    """``rus/to_original`` and ``rus/to_oracle``, of the last point.

    H is the harmonic mean; CKA, the biased one, is clipped to [0, 1]:

        rus/to_original = H(1 − CKA(f, original; forget_test), CKA(f, original; retain_test))
        rus/to_oracle   = H(CKA(f, oracle; forget_test), CKA(f, oracle; retain_test))

    Where samples are forgotten, ``forget_train`` takes the place of ``forget_test``.

    Only the last point counts, the features that the head reads: the early points of two
    networks are alike whatever was forgotten, so that a mean over points would hide the rest.

    Compare ``rus/to_original`` with the oracle's: features unlike anything on the forget set
    raise it above that. ``rus/to_oracle`` is best at 1, where a second oracle falls short too.

    Args:
      values: the flat keys of the measured model.
      references: not used; the similarities to them are among the values.
      points: the supervision points, first to last, at least one.

    Returns:
      {key: in [0, 1]}; NaN where an input is NaN; a key whose inputs are missing is left out.

    Source: arXiv 2511.19339. It compares one layer, and its forgetting is either of the two.

    >>> keys = {"cka_to_original/forget_test/s": 0.5, "cka_to_original/retain_test/s": 1.0}
    >>> derive(keys, {}, ["s"])
    {'rus/to_original': 0.6666666666666666}
    """
    del references
    result = {}
    for reference in ("original", "oracle"):
        splits = (forget_split(values), "retain_test")
        keys = [f"cka_to_{reference}/{split}/{points[-1]}" for split in splits]
        if all(key in values for key in keys):
            # Rounding gives 1.0000001.
            forget, retain = (float(np.clip(values[key], 0.0, 1.0)) for key in keys)
            forgetting = 1.0 - forget if reference == "original" else forget
            result[f"rus/to_{reference}"] = harmonic_mean(forgetting, retain)
    return result
