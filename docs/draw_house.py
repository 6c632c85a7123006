"""Draws the map of the house: its parts, how large they are, and who uses whom.

python docs/draw_house.py docs/images/house.png
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

HOUSE = Path(__file__).parents[1] / "src" / "seq2seq_models"
DOOR = "what users call"
WINGS = ("pytorch", "tensorflow", "flax")
BOXES = {
    DOOR: (0.5, 0.87, 0.3, "#e6f2df"),
    "pytorch": (0.17, 0.55, 0.26, "#fdebc8"),
    "tensorflow": (0.5, 0.55, 0.2, "#fdebc8"),
    "flax": (0.83, 0.55, 0.26, "#fdebc8"),
    "core": (0.5, 0.17, 0.9, "#dbe7f5"),
}
"""Centre, width and colour of each part, from the door down to what everything stands on."""

ARROW = {"arrowstyle": "-|>", "mutation_scale": 14}


def part_of(path: Path) -> str:
    """Which part of the house a file belongs to."""
    first = path.relative_to(HOUSE).parts[0]
    return first if first in BOXES else DOOR


def used(path: Path) -> set[str]:
    """The parts of the house that a file imports from, its own left out; errors.py belongs to all."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            places = [base, *(base / name.name for name in node.names)]
            found |= {
                part_of(place) for place in places if place.with_suffix(".py").is_file() and place.stem != "errors"
            }
    return found - {part_of(path)}


def main() -> None:
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    rooms: Counter[str] = Counter()
    uses: Counter[tuple[str, str]] = Counter()
    for path in sorted(HOUSE.rglob("*.py")):
        part = part_of(path)
        lines[part] += len(path.read_text(encoding="utf-8").splitlines())
        files[part] += 1
        folder = path.parent.relative_to(HOUSE)
        if len(folder.parts) == 2:
            rooms[folder.name] += 1
        uses.update((part, other) for other in used(path))
    figure = Figure(figsize=(9, 5), layout="constrained")
    ax = figure.add_subplot(xlim=(0, 1), ylim=(0, 1))
    ax.axis("off")
    for wing in WINGS:
        by_name = FancyArrowPatch((0.5, 0.8), (BOXES[wing][0], 0.63), color="0.55", linestyle=":", **ARROW)
        ax.add_patch(by_name)
    ax.text(0.72, 0.74, "by name, when it is asked for", color="0.35", fontsize=8)
    for (one, other), count in uses.items():
        if one == DOOR and other in WINGS:
            continue  # the dotted arrows
        x = {(DOOR, "core"): 0.36, ("core", DOOR): 0.64}.get((one, other), BOXES[one][0])
        top = 0.48 if one in WINGS else 0.8
        ends = ((x, top), (x, 0.25))
        ax.add_patch(
            FancyArrowPatch(
                *(ends if other == "core" else ends[::-1]), color="0.55", linewidth=0.5 + count / 15, **ARROW
            )
        )
        ax.text(x + 0.012, 0.35, f"{count} files", color="0.35", fontsize=8)
    for part, (x, y, width, color) in BOXES.items():
        corner = (x - width / 2, y - 0.055)
        ax.add_patch(FancyBboxPatch(corner, width, 0.11, "round,pad=0.01", facecolor=color, edgecolor="0.4"))
        text = f"{part}: {files[part]} files,\n{lines[part]:,} lines"
        if part == "core":
            text += ", of the files " + ", ".join(
                f"{count} in {room}" for room, count in rooms.items() if room != "core"
            )
        ax.text(x, y, text, ha="center", va="center", fontsize=9)
    figure.savefig(sys.argv[1], dpi=90)


if __name__ == "__main__":
    main()
