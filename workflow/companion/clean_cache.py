"""Remove what the library keeps in the user's cache folder, and say how much that frees.

Only folders that the library makes are removed: should the cache folder be named wrongly, nothing else in it is lost.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from companion import plainly
from narrowlib.store.downloads import cache_folder

KINDS = {
    "archives": "packages, as they were fetched",
    "mnist": "MNIST",
    "models": "language models, unpacked",
    "tokens": "blocks of tokens",
}


def size(folder: Path) -> tuple[int, int]:
    """How many files a folder holds, and how many bytes."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def main() -> int:
    cache = cache_folder()
    kinds = [kind for kind in KINDS if (cache / kind).is_dir()]
    freed = 0
    for kind in kinds:
        n_files, n_bytes = size(cache / kind)
        shutil.rmtree(cache / kind)
        print(f"  {kind:<8} {n_files:6,} files {n_bytes / 1e6:10,.1f} MB  {KINDS[kind]}")
        freed += n_bytes
    if kinds:
        print(f"{freed / 1e6:,.1f} MB freed in {cache}; what is needed is fetched again")
    else:
        print(f"nothing is kept in {cache}")
    return 0


if __name__ == "__main__":
    sys.exit(plainly.run(main))
