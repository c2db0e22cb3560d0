"""Normalisation and augmentation of images, inside the compiled step."""

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("none", "flip", "crop", "crop+flip")
PADDING = 4  # pixels on every side before a random crop, the field's habit for small images
_COUNTED_AT_ONCE = 1024  # images; NumPy counts values as 64-bit integers, eight times the memory


def moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every channel.

    Args:
      images: uint8 [n, h, w, c].

    Returns:
      float32 [c] each, of the values scaled to [0, 1]; a constant channel has deviation 1.
    """
    levels, channels = np.arange(256) / 255.0, images.shape[-1]
    # A histogram is exact and needs no float copy of the images.
    counts = np.zeros((channels, 256), np.int64)
    for start in range(0, len(images), _COUNTED_AT_ONCE):
        values = images[start : start + _COUNTED_AT_ONCE]
        for channel in range(channels):
            counts[channel] += np.bincount(values[..., channel].ravel(), minlength=256)
    mean, std = [], []
    for share in counts / counts.sum(axis=1, keepdims=True):
        mean.append(share @ levels)
        std.append(np.sqrt(share @ np.square(levels - mean[-1])) or 1.0)
    return np.float32(mean), np.float32(std)


def normalize(images: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    """Values scaled to [0, 1], less the mean, over the deviation: ``(x / 255 - mean) / std``.

    Args:
      images: uint8 [b, h, w, c].
      mean: [c], in units of the scaled values; the training set's, see ``moments``.
      std: [c], alike.

    Returns:
      float32 [b, h, w, c].
    """
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - jnp.reshape(mean, (1, 1, 1, -1))) / jnp.reshape(std, (1, 1, 1, -1))


def augment(images: jax.Array, keys: jax.Array, kind: str) -> jax.Array:
    """Random crop and horizontal flip, each image by its own key.

    One key an image, so that the result does not depend on how a batch is cut over devices.

    Args:
      images: uint8 [b, h, w, c].
      keys: JAX keys [b].
      kind: one of ``KINDS``; ``crop`` pads 4 zero pixels on every side first.

    Returns:
      uint8 [b, h, w, c].

    Raises:
      ValueError: ``kind`` is not one of them.
    """
    if kind not in KINDS:
        raise ValueError(f"kind = {kind!r}: one of {', '.join(KINDS)}")
    if kind == "none":
        return images

    def one(image, key):
        crop_key, flip_key = jax.random.split(key)
        if "crop" in kind:
            padded = jnp.pad(image, ((PADDING, PADDING), (PADDING, PADDING), (0, 0)))
            top, left = jax.random.randint(crop_key, (2,), 0, 2 * PADDING + 1)
            image = jax.lax.dynamic_slice(padded, (top, left, 0), image.shape)
        if "flip" in kind:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    return jax.vmap(one)(images, keys)
