"""The house: imports run down only, a wing is entered by what its ``__init__`` names, and what is private stays so."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dual_image_clip

PACKAGE = Path(dual_image_clip.__file__).parent
ROOT = PACKAGE.parents[1]
# A room may import from rooms that stand before its own floor.
FLOORS = (
    {"json_lines", "ports"},
    {"__init__", "callers", "class_names", "conformal", "defects", "photos", "plugin", "presets", "procedural"},
    {"method", "mistakes", "regions", "sources"},
    {"threshold_file"},
    {"weights", "hooks"},
    {"torch_model"},
    {"prediction"},
    {"export"},
    {"lightning_model"},
    {"one_image"},
    {"golden_memory", "records"},
    {"calibration", "streaming"},
    {"service", "ui", "watching"},
    {"commands"},
    {"cli"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# The package's own name and its plugin hand things over lazily, whatever floor they are on.
LAZY = {"__init__", "plugin"}
OUTSIDE = ("benchmarks", "training", "examples")


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of everything that a file imports from this package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dual_image_clip":
            yield from ((node.module or "", alias.name) for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))
ELSEWHERE = sorted(path for folder in OUTSIDE for path in (ROOT / folder).rglob("*.py"))


def test_every_room_has_a_floor():
    assert {room_of(path) for path in SOURCES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down(path):
    room = room_of(path)
    if room in LAZY:
        return
    for module, name in imports(path):
        other = (module.split(".")[1:] or [{"DualImageCLIP": "lightning_model"}.get(name, name)])[0]
        if other != room:
            assert FLOOR_OF[other] < FLOOR_OF[room], f"{room} imports {name} of {other}"


@pytest.mark.parametrize("path", [*SOURCES, *ELSEWHERE], ids=lambda path: str(path.relative_to(ROOT)))
def test_wings_are_entered_by_what_they_name(path):
    for module, name in imports(path):
        parts = module.split(".")[1:]
        inside = PACKAGE in path.parents and parts[:1] == [room_of(path)]
        assert len(parts) <= 1 or inside, f"{name} is not taken from {parts[0]}"
        assert not name.startswith("_"), f"{name} is private to {module}"
