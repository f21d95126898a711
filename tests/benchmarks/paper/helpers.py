"""What several tests of the paper's benchmark need."""

import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from PIL import Image

from benchmarks.paper.__main__ import main
from benchmarks.paper.results import COLUMNS, METRICS, Row

ROOT = Path(__file__).parents[3]


def frame(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a results file hands them back."""
    lines = [(*row.key, *map(row.metrics.get, METRICS), row.seconds, row.error) for row in rows]
    return pd.DataFrame(lines, columns=COLUMNS).astype({"seed": int, **dict.fromkeys(METRICS, float)})


def start(study_file: Path, *changes: str) -> int:
    """Runs the command line in this process; its exit code."""
    before, sys.argv = sys.argv, ["benchmarks/paper/__main__.py", str(study_file), *changes]
    try:
        main()
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


def is_picture(path: Path) -> bool:
    with Image.open(path) as image:
        return image.size > (100, 50) and len(image.convert("L").getcolors(10**6)) > 10
