"""scikit-learn's digits (1,797 images of 8x8), the digit 3 forgotten.

Command:  python -m ec_jax.main --config=configs/digits.py --workdir=runs/digits
Measured: not measured yet.
"""

from configs import default


def get_config():
    """Digits with a small ResNet; a run takes one to two minutes."""
    c = default.get_config()
    c.data.batch_size = 64
    c.original.epochs = 60.0
    c.unlearn.steps = 240
    return c
