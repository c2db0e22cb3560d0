"""scikit-learn's digits (1,797 images of 8x8), the digit 3 forgotten.

Command:  python -m ec_jax.main --config=configs/digits.py --workdir=runs/digits
Measured: seeds 0 to 2, one run each on 2 CPU cores, docs/results/digits (unlearned, then oracle):
          forget test 0.0, 0.0, 0.0 % (0.0, 0.0, 0.0); retain test 98.1, 97.8, 97.5 % (98.5, 99.4, 98.8);
          CKA to the original on forget test (37 images) at stage4 .56, .16, .39 (.30, .46, .34).
"""

from configs import default


def get_config():
    """Digits with a small ResNet; a run takes one to two minutes."""
    c = default.get_config()
    c.data.batch_size = 64
    c.original.epochs = 60.0
    c.unlearn.steps = 240
    return c
