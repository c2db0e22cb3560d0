"""A network of one's own forgets a digit, and the features are looked at, not the head alone.

    python -m examples.own_model

Everything here but the call of ``ec_jax.unlearn`` is what its user has already: a Flax module, its
trained variables, arrays of images and labels.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import ec_jax

FORGOTTEN = 3


class Net(nn.Module):
    """Three convolutions; nothing in it knows of unlearning."""

    @nn.compact
    def __call__(self, x, train=False):
        """Images [b, 8, 8, 1] to logits [b, 10]."""
        for i, width in enumerate((16, 32, 64)):
            x = nn.Conv(width, (3, 3), (1 + (i > 0),) * 2, name=f"conv{i + 1}")(x)
            x = nn.relu(nn.GroupNorm(8, name=f"norm{i + 1}")(x))
            self.sow("intermediates", f"block{i + 1}", x)  # a supervision point
        return nn.Dense(10)(x.mean(axis=(1, 2)))


def digits():
    """Training and test images, float32 [n, 8, 8, 1], and labels."""
    data = load_digits()
    images = (data.images / 16).astype(np.float32)[..., None]
    return train_test_split(
        images, data.target, test_size=0.2, stratify=data.target, random_state=0
    )


def trained(model, images, labels, steps=400):
    """Its variables after ordinary training."""
    variables = model.init(jax.random.key(0), images[:1])
    optimizer = optax.adam(3e-3)
    state = optimizer.init(variables)

    @jax.jit
    def step(variables, state, images, labels):
        def loss(variables):
            logits = model.apply(variables, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(variables), state)
        return optax.apply_updates(variables, updates), state

    draw = np.random.default_rng(0)
    for _ in range(steps):
        rows = draw.integers(0, len(labels), 128)
        variables, state = step(variables, state, images[rows], labels[rows])
    return variables


def main():
    """Trains, unlearns, and prints what is left of the digit."""
    train_images, test_images, train_labels, test_labels = digits()
    model, gone = Net(), train_labels == FORGOTTEN
    original = trained(model, train_images, train_labels)
    found = ec_jax.unlearn(
        model,
        original,
        forget=(train_images[gone], train_labels[gone]),
        retain=(train_images[~gone], train_labels[~gone]),
        test=(test_images, test_labels),
        oracle=trained(model, train_images[~gone], train_labels[~gone]),
        settings={"unlearn.steps": 100, "unlearn.optimizer.learning_rate": 0.05},
    )
    rows = {
        "accuracy, the forgotten digit (%)": "accuracy/forget_test",
        "accuracy, the others (%)": "accuracy/retain_test",
        "CKA to the original, block2": "cka_to_original/forget_test/block2",
        "CKA to the original, block3": "cka_to_original/forget_test/block3",
        "gap to the oracle, features": "gap/representation",
    }
    print(f"{'':36}{'original':>10}{'oracle':>10}{'unlearned':>10}")
    for name, key in rows.items():
        numbers = [found.metrics[m].get(key, 0.0) for m in ("original", "oracle", "unlearned")]
        print(f"{name:36}" + "".join(f"{value:10.2f}" for value in numbers))
    print(f"verdict: {found.verdict}")
    logits = model.apply(found.variables, jnp.asarray(test_images))  # as the model's own
    print(f"{int((logits.argmax(-1) == FORGOTTEN).sum())} test images are taken for a {FORGOTTEN}")


if __name__ == "__main__":
    main()
