"""What the detector costs: the tower alone (the default), a folder of photos, a whole test, a camera line.

Example:
    python -m benchmarks.speed
    python -m benchmarks.speed folder --images 20
    python -m benchmarks.speed evaluation --images 16
    python -m benchmarks.speed stream --count 50
"""

import argparse
import logging
import sys

from benchmarks.speed import evaluation, folder, stream, tower


def main() -> None:
    """Measures a subject, or the tower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    subjects = parser.add_subparsers(metavar="{tower,folder,evaluation,stream}")
    for subject in (tower, folder, evaluation, stream):
        name = subject.__name__.rpartition(".")[2]
        own = subjects.add_parser(name, description=subject.__doc__, formatter_class=parser.formatter_class)
        subject.add_arguments(own)
        own.set_defaults(measure=subject.main)
    arguments = parser.parse_args(sys.argv[1:] or ["tower"])
    logging.disable(logging.WARNING)
    arguments.measure(arguments)


if __name__ == "__main__":
    main()
