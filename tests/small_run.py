"""A run at a size of seconds, for the tests that need a whole one."""

from command import changed

from configs import digits

SMALL = {
    "model__depth": 8,
    "model__width": 4,
    "original__epochs": 3.0,
    "modules__epochs": 1.0,
    "unlearn__steps": 12,
    "checkpoint__every": 5,
    "evaluation__idi_steps": 5,
    "evaluation__idi_seeds": 2,
    "parallel__devices": 1,  # several: tests/training/test_update.py
}


def small(**overrides):
    """Digits at a size of seconds."""
    return changed(digits.get_config(), **{**SMALL, **overrides})
