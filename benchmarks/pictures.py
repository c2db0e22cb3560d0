"""The input pipeline alone: JPEGs on disk to batches of random crops."""

import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import timing, torch_vision
from ec_jax.data import folder, pictures
from ec_jax.data.feed import Feed
from ec_jax.data.loader import Stream

SIZE, BATCH = 224, 64
SHAPE = (375, 500)  # of most of ImageNet's pictures
QUALITY = 92


def write(root: Path, count: int) -> None:
    """Pictures of about ImageNet's size and weight (110 kB): noise of several scales."""
    draw = np.random.default_rng(0)
    for i in range(count):
        image = np.zeros((*SHAPE, 3), np.float32)
        for scale in (1, 4, 16, 64):
            small = draw.normal(size=(-(-SHAPE[0] // scale), -(-SHAPE[1] // scale), 3))
            image += np.kron(small, np.ones((scale, scale, 1)))[: SHAPE[0], : SHAPE[1]] * scale**0.5
        image = np.clip(128 + 12 * image, 0, 255).astype(np.uint8)
        out = io.BytesIO()
        Image.fromarray(image).save(out, "JPEG", quality=QUALITY)
        for part in ("train", "test") if i < 2 else ("train",):
            place = root / part / f"class{i % 2}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.jpg").write_bytes(out.getvalue())


def torch_loader(smoke: bool) -> dict[str, Any]:
    """Random-resized crops and flips, against torchvision's transforms in PyTorch's loader."""
    count, size = (2 * BATCH, 32) if smoke else (8 * BATCH * timing.cores(), SIZE)
    with tempfile.TemporaryDirectory() as root:
        write(Path(root), count)
        ours, other = _ours(root, count, size), _torch(root, size)
        compared = timing.compare(
            ours,
            other,
            pairs=2 if smoke else 9,
            # Each draws its own crops: what must agree is how many there are and how bright.
            difference=lambda a, b: timing.largest_difference(a / count, b / count) / 255,
            allowed=0.05,
        )
    compared["ratio"].pop("cpu")  # the loader's workers are processes of their own
    seconds = {side: np.median(compared[f"{side}_seconds"]) for side in ("ours", "other")}
    return {
        "what": f"{count} JPEGs of {SHAPE[1]}x{SHAPE[0]} to random crops of {size}x{size}",
        "against": f"torch DataLoader, {timing.cores()} workers, torchvision's transforms",
        "images_per_second": {side: round(count / s) for side, s in seconds.items()},
        **compared,
    }


def _ours(root: str, count: int, size: int) -> Any:
    _, listing, _ = folder.listing(root)
    shown = pictures.Pictures(folder.files(listing), size=size, resize=size)
    feed = Feed(Stream(np.arange(len(shown)), BATCH, 0, "train"), shown, "crop+flip", range(10**6))
    step = iter(range(10**6))
    return lambda: sum(
        feed.batch(next(step)).sum(axis=(0, 1, 2)) / size**2 for _ in range(count // BATCH)
    )


def _torch(root: str, size: int) -> Any:
    import torch

    torch_vision.load()
    from torchvision import datasets, transforms

    cut = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip()]
    data = datasets.ImageFolder(
        root + "/train", transforms.Compose([*cut, transforms.PILToTensor()])
    )
    loader = torch.utils.data.DataLoader(
        data,
        BATCH,
        shuffle=True,
        num_workers=timing.cores(),
        persistent_workers=True,
        drop_last=True,
    )

    def read():
        with warnings.catch_warnings():
            # Its workers are forked, and run none of JAX's code.
            warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
            return sum(
                images.permute(0, 2, 3, 1).numpy().sum(axis=(0, 1, 2)) / size**2
                for images, _ in loader
            )

    return read
