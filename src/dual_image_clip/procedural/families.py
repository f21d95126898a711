"""All families by name, and which of them are held out."""

from dual_image_clip.procedural.consumer import BottleTop, Button, Capsule, Coin, Cookie, Pill, Zipper
from dual_image_clip.procedural.electronics import Board, Cable, Connector, Transistor, Wafer
from dual_image_clip.procedural.family import Family
from dual_image_clip.procedural.fasteners import BoltHead, Nut, Screw, Washer
from dual_image_clip.procedural.machinery import Bearing, Gear, Key, PipeEnd, Spring
from dual_image_clip.procedural.mineral import Concrete, Granite, Marble, Terrazzo, Tile
from dual_image_clip.procedural.natural import Foam, Leather, Paper, Rubber, Wood
from dual_image_clip.procedural.sheet import BrushedMetal, Casting, Corrugated, Mesh, PerforatedSheet
from dual_image_clip.procedural.woven import Carpet, Knit, Strap, Weave

_TEXTURES: tuple[type[Family], ...] = (
    *(Weave, Knit, Carpet, Leather, Wood, Paper, Foam, Rubber, Concrete, Marble, Terrazzo, Granite, Tile),
    *(BrushedMetal, Corrugated, PerforatedSheet, Mesh, Casting, Wafer),
)
_OBJECTS: tuple[type[Family], ...] = (
    *(Strap, Nut, Washer, BoltHead, Screw, Gear, Bearing, Spring, PipeEnd, Key),
    *(BottleTop, Capsule, Pill, Coin, Button, Cookie, Zipper, Board, Connector, Transistor, Cable),
)

FAMILIES: dict[str, type[Family]] = {family.name: family for family in (*_TEXTURES, *_OBJECTS)}
HELD_OUT_FAMILIES: tuple[str, ...] = tuple(name for name, family in FAMILIES.items() if family.held_out)
