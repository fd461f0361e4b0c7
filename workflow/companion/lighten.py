"""Pages that load little: the theme's icons as a style sheet and a small font, and the search only where it is used.

The theme has a script of 1.4 MB that turns ``<i class="fa-solid fa-bars">`` into a drawing, and a font of all icons.
Here the drawings that the pages use become a style sheet, and the font keeps the signs that the style sheets ask for.
Of pictures, equal ones are loaded once, and those that are not shown at first are loaded when they are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from companion import chapters

SCRIPT = "_static/scripts/fontawesome.js"
SHEET = "_static/icons.css"
FONTS = "_static/vendor/fontawesome/webfonts"
_LINK = re.compile(r'<script defer src="(?P<up>[^"]*)_static/scripts/fontawesome\.js[^"]*"></script>')
_SEARCH = re.compile(
    r'\s*<script src="[^"]*(?:_static/searchtools|_static/language_data|searchindex)\.js[^"]*"></script>'
)
_CLASS = re.compile(r'class="([^"]*\bfa-[^"]*)"')
_SIGN = re.compile("[\ue000-\uf8ff]")
_NAME = re.compile(r"\bfa-([a-z0-9-]+)")
_DRAWING = re.compile(
    r'(?<=[{,])"?(?P<name>[a-z0-9-]+)"?:\[(?P<width>\d+),(?P<height>\d+),\[(?P<others>[^\]]*)\],"(?P<sign>[0-9a-f]+)","(?P<path>[^"]+)"'
)
_PICTURE = re.compile(r"(?<=/_images/)[\w.-]+")
_MOVING = re.compile(r'data-figure="([^"]+)"')
_FIGURE = re.compile(r'(<figure\b[^>]*\bid="(?P<name>[^"]+)"[^>]*>\s*<img )(?!loading)')
_SECOND_RUN = re.compile(r'(</div>\s*<div class="run">(?:(?!<div class="run).)*?<img )(?!loading)', re.S)
RULES = """.fa-solid,.fas,.fa-brands,.fab,.fa-regular,.far{background:currentColor;display:inline-block;height:1em;
mask:var(--icon) center/contain no-repeat;vertical-align:-.125em;width:1.25em}
.fa-solid::before,.fas::before,.fa-brands::before,.fab::before,.fa-regular::before,.far::before{content:none!important}
.fa-lg{font-size:1.25em}
"""


def drawings(script: str) -> dict[str, str]:
    """Every icon of the theme's script by its names, as svg; the solid one where a name has several."""
    found = {}
    for match in _DRAWING.finditer(script):
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {match["width"]} {match["height"]}">'
            f'<path d="{match["path"]}"/></svg>'
        )
        for name in [match["name"], *re.findall(r'"([a-z-]+)"', match["others"])]:
            found[name] = svg
    return found


def sheet(names: set[str], script: str) -> str:
    """The style sheet of the icons with these names."""
    known = drawings(script)
    lines = [
        f'.fa-{name}{{--icon:url("data:image/svg+xml,{quote(known[name])}")}}' for name in sorted(names & set(known))
    ]
    return RULES + "\n".join(lines) + "\n"


def subset(font: Path, signs: set[int]) -> bytes:
    """A font with these signs alone, as woff."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont

    with TTFont(font, recalcTimestamp=False) as made:
        cutter = Subsetter(Options(notdef_outline=True))
        cutter.populate(unicodes=signs)
        cutter.subset(made)
        made.flavor = "woff"
        written = io.BytesIO()
        made.save(written)
    return written.getvalue()


def twins(pictures: Iterable[Path]) -> dict[str, str]:
    """Names of pictures, each with the first name that has the same content."""
    first: dict[bytes, str] = {}
    return {path.name: first.setdefault(path.read_bytes().strip(), path.name) for path in sorted(pictures)}


def later(text: str) -> str:
    """A page whose pictures below a figure that moves, and in a second tab, are loaded only when they are shown."""
    moving = set(_MOVING.findall(text))
    text = _FIGURE.sub(lambda found: found[1] + 'loading="lazy" ' * (found["name"] in moving), text)
    return _SECOND_RUN.sub(r'\1loading="lazy" ', text)


def lighten(site: Path) -> None:
    """Have every page of a site load only what it shows."""
    script = site / SCRIPT
    pages = [path for path in site.rglob("*.html") if "_static" not in path.relative_to(site).parts]
    names: set[str] = set()
    same = twins((site / "_images").glob("*.*"))
    for path in pages:
        text = path.read_text(encoding="utf-8")
        names |= {name for told in _CLASS.findall(text) for name in _NAME.findall(told)}
        text = later(_PICTURE.sub(lambda found: same.get(found[0], found[0]), text))
        text = _LINK.sub(rf'<link rel="stylesheet" href="\g<up>{SHEET}" />', text)
        chapters.write_if_changed(path, text if path.name == "search.html" else _SEARCH.sub("", text))
    if not script.is_file():
        return
    sheets = [path.read_text(encoding="utf-8") for path in sorted((site / "_static").rglob("*.css"))]
    asked = re.sub(r"\.fa-[^{}]*\{[^}]*\}", "", "".join(sheets))  # without the theme's list of all icons
    own = {int(sign, 16) for sign in re.findall(r"\\(f[0-9a-f]{3})\b", asked)} | {*map(ord, _SIGN.findall(asked))}
    font = site / FONTS / "fa-solid-900.ttf"
    chapters.write_if_changed(site / FONTS / "icons.woff", subset(font, own))
    face = (
        '@font-face{font-family:"Font Awesome 6 Free";font-weight:900;font-style:normal;'
        'src:url(vendor/fontawesome/webfonts/icons.woff) format("woff")}\n'
    )
    chapters.write_if_changed(site / SHEET, face + sheet(names, script.read_text(encoding="utf-8")))
