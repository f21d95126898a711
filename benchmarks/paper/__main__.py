"""Reruns the paper's tables and figures: measured beside published, our method beside its peers.

Example:
    python -m benchmarks.paper configs/benchmarks/table1.yaml
    python -m benchmarks.paper configs/benchmarks/table3.yaml data.name=Visa data.root=datasets/visa seeds=[0,1]
    python -m benchmarks.paper configs/benchmarks/demo.yaml
"""

import argparse
import logging
from pathlib import Path

from rich.console import Console

from benchmarks.paper.benchmark import run_benchmark
from benchmarks.paper.plan_file import read_plan


def main() -> None:
    """Runs what is missing and writes the report."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="YAML file, such as configs/benchmarks/table1.yaml")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="changes, such as data.root=… or seeds=[0,1]")
    arguments = parser.parse_args()
    console = Console()
    try:
        report, failed = run_benchmark(read_plan(arguments.config, arguments.changes), console)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    console.print(f"The report is in {report}", soft_wrap=True)
    if failed:
        parser.exit(1, f"{failed} rows failed; the report says why\n")


if __name__ == "__main__":
    logging.getLogger("dual_image_clip").setLevel(logging.ERROR)
    main()
