"""Pictures that are decoded when they are read: cut at random for training, alike for evaluation.

Source of the two cuts: Szegedy et al. 2015 (arXiv 1409.4842) for training (an area of 8 to 100 %,
an aspect ratio of 3/4 to 4/3), and the usual one of evaluation: the shorter side scaled, the middle
cut out. Both are those of torchvision's transforms, bilinear with anti-aliasing.
"""

import contextlib
import dataclasses
import errno
import io
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ec_jax.errors import InputError

AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
_TRIES = 10  # cuts that are drawn before the middle is taken
_DRAWN = 4  # numbers a try takes
# What decoding raises; Pillow's own error is an OSError without a number.
UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, EOFError)
_LOST = (None, errno.ENOENT, errno.EISDIR)  # the picture's own fault, and not the machine's
_AT_ONCE = 4096  # pictures that wait for a thread
_THREADS = 16  # a decoder holds no lock; more threads than cores hide what a disk takes


class DamagedError(InputError):
    """A picture that is missing, or cannot be decoded."""


@dataclasses.dataclass(frozen=True)
class Files:
    """Encoded pictures.

    Attributes:
      read: ``index -> bytes``.
      name: ``index -> str``, by which a user finds a picture.
      identity: ``index -> str``: which picture it is, wherever the set lies; reads none.
      count: how many.
      field: of the config that says where they are.
    """

    read: Callable[[int], bytes]
    name: Callable[[int], str]
    identity: Callable[[int], str]
    count: int
    field: str


class Pictures:
    """An array uint8 [n, size, size, 3] that is decoded when it is read.

    Reading it gives the cut of evaluation; ``crops`` gives those of training.
    """

    def __init__(self, files: Files, rows: np.ndarray | None = None, *, size: int, resize: int):
        """All pictures of ``files``, or those of ``rows``.

        Args:
          files: where they are.
          rows: integers.
          size: pixels along the sides of a cut.
          resize: pixels of the shorter side before evaluation's cut, >= size.
        """
        self._files, self._size, self._resize = files, size, resize
        self._rows = np.arange(files.count) if rows is None else np.asarray(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As an array's."""
        return (len(self), self._size, self._size, 3)

    @property
    def dtype(self) -> np.dtype:
        """As an array's."""
        return np.dtype(np.uint8)

    def take(self, rows: np.ndarray) -> "Pictures":
        """Those of ``rows``, integers or a mask, still to be decoded."""
        return Pictures(self._files, self._rows[rows], size=self._size, resize=self._resize)

    def name(self, row: int) -> str:
        """By which a user finds a picture."""
        return self._files.name(int(self._rows[row]))

    def identity(self, row: int) -> str:
        """Which picture it is, wherever the set lies."""
        return self._files.identity(int(self._rows[row]))

    def sound(self) -> tuple[np.ndarray, list[str]]:
        """Rows of the pictures that can be decoded, and the names of those that cannot.

        Every picture is read once, a JPEG at an eighth of its size.
        """
        names: list[str] = []

        def broken(row):
            try:
                with self._picture(row) as picture:
                    picture.draft("RGB", (1, 1))
                    picture.load()
            except DamagedError:
                names.append(self.name(row))
                return True
            return False

        bad = np.zeros(len(self), bool)
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(self), _AT_ONCE):
                rows = range(start, min(start + _AT_ONCE, len(self)))
                bad[rows.start : rows.stop] = list(pool.map(broken, rows))
        return np.flatnonzero(~bad), sorted(names)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """uint8 [k, size, size, 3] of a slice or of integers [k], cut for evaluation."""
        return _together(self.still, np.atleast_1d(np.arange(len(self))[rows]), self._size)

    def still(self, row: int) -> np.ndarray:
        """One picture, cut for evaluation."""
        with self._picture(row) as picture:
            return middle(picture, self._size, self._resize)

    def crop(self, row: int, draw: np.random.Generator, kind: str) -> np.ndarray:
        """One picture, cut and mirrored for training as ``augment.KINDS`` says.

        Args:
          row: which.
          draw: of this picture at this place of its stream.
          kind: ``crop``: a random part of it, else its middle; ``flip``: perhaps mirrored.
        """
        with self._picture(row) as picture:
            if "crop" in kind:
                cut = random_crop(picture, self._size, draw)
            else:
                cut = middle(picture, self._size, self._resize)
        return cut[:, ::-1] if "flip" in kind and draw.random() < 0.5 else cut

    @contextlib.contextmanager
    def _picture(self, row: int) -> Iterator[Any]:
        from PIL import Image

        try:
            with decode(self._files.read(int(self._rows[row]))) as picture:
                yield picture
        except InputError:  # more than this picture is damaged
            raise
        except (*UNREADABLE, Image.DecompressionBombError) as error:
            # Pixels are decoded where they are used: whatever reads them may raise it.
            raise _unusable(self.name(row), self._files.field, error) from error


def rows_of(images: Any, rows: np.ndarray) -> Any:
    """Some of the images of an array, or some of ``Pictures``, still to be decoded."""
    return images.take(rows) if isinstance(images, Pictures) else images[rows]


def _together(one: Callable[[int], np.ndarray], rows: Sequence[int], size: int) -> np.ndarray:
    out = np.empty((len(rows), size, size, 3), np.uint8)

    def fill(place):
        out[place] = one(rows[place])

    with ThreadPoolExecutor(min(_THREADS, max(len(rows), 1))) as pool:
        list(pool.map(fill, range(len(rows))))  # a list: what a thread raises is raised here
    return out


def decode(data: bytes) -> Any:
    """A picture of any mode as RGB; a JPEG's pixels are decoded when they are used.

    Args:
      data: JPEG, PNG, WebP, BMP or GIF (its first frame).

    Raises:
      OSError, ValueError, SyntaxError: it is damaged, or no picture.
    """
    from PIL import Image

    # Pillow knows more formats, and calls other programs for some.
    picture = Image.open(io.BytesIO(data), formats=FORMATS)
    if picture.mode.startswith("I"):  # 16 bits a pixel, which conversion would clip to 8
        picture = picture.point(lambda value: value / 256).convert("L")
    # Grey, CMYK and palettes become colours; of what is transparent the colour alone counts.
    whole = picture.format == "JPEG" and picture.mode == "RGB"
    return picture if whole else picture.convert("RGB")


def _unusable(name: str, field: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:100]
    if getattr(error, "errno", None) not in _LOST:
        return InputError(field, name, f"cannot be read ({reason}); mend that and start again")
    remedy = f"cannot be decoded ({reason}); replace or remove it, or set data.damaged=skip"
    return DamagedError(field, name, remedy)


def middle(picture: Any, size: int, resize: int) -> np.ndarray:
    """The middle of a picture whose shorter side was scaled: uint8 [size, size, 3].

    Args:
      picture: RGB.
      size: of the cut.
      resize: of the shorter side, >= size.
    """
    width, height = picture.size
    short = min(width, height)
    scaled = [int(resize * side / short) for side in (width, height)]
    picture = _resized(picture, scaled, None)
    left, top = (round((side - size) / 2.0) for side in scaled)
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def random_crop(picture: Any, size: int, draw: np.random.Generator) -> np.ndarray:
    """A random part of a picture, scaled: uint8 [size, size, 3].

    Args:
      picture: RGB, its pixels not yet decoded.
      size: of the cut.
      draw: of this picture alone.
    """
    left, top, width, height = random_box(*picture.size, draw)
    whole = picture.size
    # A JPEG is decoded at 1/2, 1/4 or 1/8 where that still has more pixels than are wanted.
    picture.draft("RGB", (whole[0] * size // width, whole[1] * size // height))
    if picture.size == whole:  # the part alone: what is around it does not bleed in
        part = picture.crop((left, top, left + width, top + height))
        return np.asarray(_resized(part, (size, size), None))
    across, down = (new / old for new, old in zip(picture.size, whole, strict=True))
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    return np.asarray(_resized(picture, (size, size), box))


def random_box(width: int, height: int, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random part: of ``AREA`` of the whole, of ``ASPECT``.

    After ten draws that do not fit the middle is taken, with the nearest aspect ratio allowed.
    """
    low, high = (math.log(ratio) for ratio in ASPECT)
    for _ in range(_TRIES):
        area = width * height * draw.uniform(*AREA)
        ratio = math.exp(draw.uniform(low, high))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draw.integers(0, width - w + 1)), int(draw.integers(0, height - h + 1)), w, h
    w, h = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return (width - w) // 2, (height - h) // 2, w, h


def _resized(picture: Any, size: Sequence[int], box: Any) -> Any:
    from PIL import Image

    return picture.resize(tuple(size), Image.Resampling.BILINEAR, box)
