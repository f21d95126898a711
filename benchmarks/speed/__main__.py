"""What the detector costs: of the tower alone (the default), of a folder of photos, of a camera line.

Example:
    python -m benchmarks.speed
    python -m benchmarks.speed folder --images 20
    python -m benchmarks.speed stream --count 50
"""

import sys

from benchmarks.speed import folder, stream, tower

SUBJECTS = {"tower": tower.main, "folder": folder.main, "stream": stream.main}

if __name__ == "__main__":
    subject = sys.argv.pop(1) if sys.argv[1:2] and sys.argv[1] in SUBJECTS else "tower"
    SUBJECTS[subject]()
