"""Draw the rooms of the code and the imports between them: `python docs/architecture.py`.

Writes `architecture.svg` and the table in `architecture.md`. Both come from the code itself: the rooms from
the import contracts, the arrows from the import graph, the sentences from the docstrings of the rooms.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE, PICTURE = ROOT / "docs" / "architecture.md", ROOT / "docs" / "architecture.svg"
SCRIPTS = ("plots.examples", "plots.reproduce_paper")
"""They ask questions as a user does, through any call; not part of the rooms."""

UNDRAWN = ("sim.version",)
"""In the table only: whoever writes a result or a key reads it."""

Edges = dict[str, set[str]]
Point = tuple[float, float]
BOX_WIDTH, BOX_HEIGHT, GAP, FLOOR = 118, 34, 16, 74
STYLE = """<style>
text { font: 13px sans-serif; text-anchor: middle; dominant-baseline: central; }
.title { font-weight: bold; text-anchor: start; }
.note { font-size: 11px; }
.house { fill: #eef3f7; }
.room { fill: #fff; stroke: #456; }
.arrow { fill: none; stroke: #789; marker-end: url(#tip); }
.wide { stroke-width: 2; }
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0,0 L8,4 L0,8 z" fill="#456"/></marker></defs>
<rect width="100%" height="100%" fill="#fff"/>"""


def house_of(room: str) -> str:
    """The package that a room lies in."""
    return room.partition(".")[0]


def room_of(module: str) -> str | None:
    """The room that a module lies in: `sim.planning`, `real.engines`, `plots`, `traces`; else None."""
    house, _, rest = module.partition(".")
    if house in ("plots", "traces"):
        return None if module.startswith(SCRIPTS) else house
    return f"{house}.{rest.partition('.')[0]}" if rest else None


def edges() -> Edges:
    """Room -> the rooms that it imports. The command line may reach up, into figures and real models."""
    import grimp

    graph = grimp.build_graph("sim", "traces", "real", "plots", cache_dir=None)
    found: Edges = {}
    for module in graph.modules:
        room = room_of(module)
        if room is None:
            continue
        others = {room_of(other) for other in graph.find_modules_directly_imported_by(module)}
        found.setdefault(room, set()).update(o for o in others if o is not None and o != room)
    return found


def floors(house: str) -> list[list[str]]:
    """The rooms of a house from top to bottom, by its import contract."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers" and contract.get("containers") == [house]
    )
    return [[f"{house}.{name.strip(' ()')}" for name in re.split(r"[|:]", layer)] for layer in layers]


def sentence(room: str) -> str:
    """The first paragraph of a room's docstring."""
    path = ROOT / room.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split())


def table(found: Edges) -> str:
    """One row a room: its sentence, and what it imports."""
    rows = ["| room | what it does | imports |", "|---|---|---|"]
    order = [room for house in ("real", "sim") for floor in floors(house) for room in floor]
    for room in ("plots", *order, "traces"):
        names = ", ".join(f"`{other}`" for other in sorted(found.get(room, ())))
        rows.append(f"| `{room}` | {sentence(room)} | {names or '–'} |")
    return "\n".join(rows)


def reduced(found: Edges) -> Edges:
    """The edges inside a house that no longer path implies."""
    inside = {room: {o for o in others if house_of(o) == house_of(room)} for room, others in found.items()}

    def reach(room: str) -> set[str]:
        return {far for other in inside.get(room, ()) for far in (other, *reach(other))}

    return {room: others - {far for o in others for far in reach(o)} for room, others in inside.items()}


def levels(found: Edges, house: str) -> list[list[str]]:
    """The rooms of a house from top to bottom, each as high as those that import it allow."""
    rooms = [room for floor in floors(house) for room in floor if room not in UNDRAWN]

    def depth(room: str) -> int:
        return max((1 + depth(other) for other in rooms if room in found.get(other, ())), default=0)

    depths = {room: depth(room) for room in rooms}
    return [[room for room in rooms if depths[room] == level] for level in range(max(depths.values()) + 1)]


def place(rows: list[list[str]], left: float, width: float) -> dict[str, Point]:
    """Centres of the boxes, each floor spread evenly."""
    return {
        name: (left + width / len(row) * (i + 0.5), 25 + FLOOR * (level + 0.5))
        for level, row in enumerate(rows)
        for i, name in enumerate(row)
    }


def box(name: str, x: float, y: float) -> str:
    """A room."""
    left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
    frame = f'<rect x="{left:g}" y="{top:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="5" class="room"/>'
    return frame + f'<text x="{x:g}" y="{y:g}">{name.rpartition(".")[2]}</text>'


def arrow(start: Point, end: Point, centre: float) -> str:
    """An import, from the bottom of one box to the top of another; round the floors between the two."""
    (x, y), (u, v) = (start[0], start[1] + BOX_HEIGHT / 2), (end[0], end[1] - BOX_HEIGHT / 2 - 2)
    bend = (v - y) / 2
    aside = 0.0
    if end[1] - start[1] > 1.5 * FLOOR:
        aside = (1 if x + u > 2 * centre else -1) * BOX_WIDTH * 1.1
    c, d = f"{x + aside:g},{y + bend:g}", f"{u + aside:g},{v - bend:g}"
    return f'<path d="M{x:g},{y:g} C{c} {d} {u:g},{v:g}" class="arrow"/>'


def frame(name: str, left: float, top: float, width: float, height: float, note: str = "") -> str:
    """The outline of one package, with a few words about what is in it."""
    lines = [
        f'<rect x="{left:g}" y="{top:g}" width="{width:g}" height="{height:g}" rx="8" class="house"/>',
        f'<text x="{left + 12:g}" y="{top + 16:g}" class="title">{name}/</text>',
    ]
    if note:
        lines.append(f'<text x="{left + width / 2:g}" y="{top + height - 20:g}" class="note">{note}</text>')
    return "".join(lines)


def picture(found: Edges) -> str:
    """The houses as SVG, lower floors below; arrows that follow from others are left out."""
    sim, real = levels(found, "sim"), levels(found, "real")
    narrow, wide = (max(map(len, rows)) * (BOX_WIDTH + GAP) + 2 * GAP for rows in (real, sim))
    left = narrow + 50
    right = left + wide + 40
    height = max(len(sim), len(real)) * FLOOR + 30
    shown = []
    for rows, start, width in ((real, 10, narrow), (sim, left, wide)):
        at = place(rows, start, width)
        between = [(room, other) for room in at for other in sorted(reduced(found)[room]) if other in at]
        shown += [arrow(at[room], at[other], start + width / 2) for room, other in between]
        shown += [box(room, *xy) for room, xy in at.items()]
    foot = height + 50
    middle = left + wide / 2
    houses = [
        frame("real", 10, 10, narrow, len(real) * FLOOR + 20),
        frame("sim", left, 10, wide, len(sim) * FLOOR + 20),
        frame("plots", right, 10, 150, 70, "figures of results"),
        frame("traces", left, foot, wide, 56, "requests: read, generated, fetched, written"),
    ]
    ways = (
        f"M{narrow + 10:g},45 L{left - 3:g},45",
        f"M{right:g},45 L{left + wide + 3:g},45",
        f"M{middle:g},{len(sim) * FLOOR + 30} L{middle:g},{foot - 3:g}",
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right + 160:g} {foot + 66:g}">',
            STYLE,
            *houses,
            *(f'<path d="{way}" class="arrow wide"/>' for way in ways),
            *shown,
            "</svg>\n",
        ]
    )


def page(text: str, found: Edges) -> str:
    """The page with its table made anew."""
    head, begin, rest = text.partition("<!-- rooms -->\n\n")
    _, end, tail = rest.partition("\n\n<!-- end of rooms -->")
    assert begin and end, "architecture.md: the marks around its table are gone"
    return head + begin + table(found) + end + tail


def files() -> Iterator[tuple[Path, str]]:
    """The picture and the page, as they should be."""
    found = edges()
    yield PICTURE, picture(found)
    yield PAGE, page(PAGE.read_text(encoding="utf-8"), found)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for path, text in files():
        path.write_text(text, encoding="utf-8")
