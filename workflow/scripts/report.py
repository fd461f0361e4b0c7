"""Say where the site is and how long each chapter took."""

from __future__ import annotations

import json
import os
import sys

import chapters
import nbformat


def main() -> int:
    plan = json.loads((chapters.BUILD / "plan.json").read_text(encoding="utf-8"))
    width = max(len(chapter) for chapter in plan["executed"])
    print(f"\nchapters, profile {plan['profile']}")
    for chapter, path in plan["executed"].items():
        seconds = nbformat.read(chapters.ROOT / path, as_version=4).metadata["papermill"]["duration"]
        print(f"  {chapter:<{width}}  {seconds:7.1f} s")
    print(f"site: {os.path.relpath(chapters.BUILD / 'html' / 'index.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
