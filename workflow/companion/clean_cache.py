"""Remove what the library keeps in the user's cache folder, and report how much that frees.

Only folders that the library makes are removed: if the cache folder is set wrongly, nothing else in it is lost.
"""

import argparse
import shutil
from pathlib import Path

from companion import chapters
from narrowlib.store.downloads import cache_folder
from narrowlib.store.kept import outdated_results

KINDS = {
    "archives": "packages as downloaded",
    "mnist": "MNIST",
    "models": "language models, unpacked",
    "tokens": "blocks of tokens",
}


def main(arguments: list[str]) -> int:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(arguments)
    cache, freed = cache_folder(), 0
    kinds = [kind for kind in KINDS if (cache / kind).is_dir()]
    for kind in kinds:
        sizes = [path.stat().st_size for path in (cache / kind).rglob("*") if path.is_file()]
        shutil.rmtree(cache / kind)
        print(f"  {kind:<8} {len(sizes):6,} files {sum(sizes) / 1e6:10,.1f} MB  {KINDS[kind]}")
        freed += sum(sizes)
    freed_in = f"{freed / 1e6:,.1f} MB freed in {cache}; files are downloaded again when needed"
    print(freed_in if kinds else f"nothing is kept in {cache}")
    return 0


def prune(arguments: list[str]) -> int:
    """Remove kept results of other code versions, which are no longer used."""
    parser = argparse.ArgumentParser(description=prune.__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=chapters.BUILD / "checkpoints")
    folder = parser.parse_args(arguments).folder
    outdated = outdated_results(folder)
    for path in outdated:
        shutil.rmtree(path, ignore_errors=True)
    print(f"{len(outdated)} results of outdated code removed from {folder}")
    return 0
