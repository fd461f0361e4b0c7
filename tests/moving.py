"""The figures in which a reader moves something: by name, the chapter and what the cell asks for."""

from companion import chapters

ASKED = {
    cell.metadata["mystnb"]["figure"]["name"]: (chapter, cell.metadata["interactive"])
    for chapter in chapters.names()
    for cell in chapters.code_cells(chapter)
    if "interactive" in cell.metadata
}
KINDS = {name: asked.get("kind", "chart") for name, (_, asked) in ASKED.items()}
