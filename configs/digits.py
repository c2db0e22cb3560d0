"""scikit-learn's digits (1,797 images of 8x8), the digit 3 forgotten.

Command:  python -m ec_jax.main --config=configs/digits.py --workdir=runs/digits
Measured: every method, seeds 0 to 2, one CPU core a process: docs/results.md. There EC
          erases the class with every seed (37 test images: on another processor it may be called
          superficial); its last stage moves further than the oracle's on what is kept, too.
"""

from configs import default


def get_config():
    """Digits with a small ResNet; a run takes one to two minutes."""
    c = default.get_config()
    c.data.batch_size = 64
    c.original.epochs = 60.0
    c.unlearn.steps = 80
    c.recipes = default.tuned("digits")
    return c
