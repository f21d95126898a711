"""The command's server with a model of a few thousand weights: ``python -m tests.service.small_server serve …``."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import open_clip

from dual_image_clip import DualImageCLIP, cli
from dual_image_clip.commands import serve
from dual_image_clip.service import scorer
from tests.helpers import TINY, TINY_CONFIG, tiny_model

SETTINGS = {"class_name": "plate", "threshold": 0.35, "adaptation_steps": 0}
# Pixels of a width that takes a while, as all images do with weights of a useful size.
SLOW = 100


def load(*_: Any, **__: Any) -> DualImageCLIP:
    return tiny_model(**SETTINGS)


def encode_slowly(model: DualImageCLIP, pixels: Any, name: str | None = None) -> Any:
    if pixels.shape[-1] > SLOW:
        time.sleep(0.1)
    return encode_one(model, pixels, name)


if __name__ == "__main__":
    encode_one = scorer.encode_one
    scorer.encode_one = encode_slowly
    serve.load_model = load
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{TINY}.json").write_text(json.dumps(TINY_CONFIG))
        open_clip.add_model_config(Path(folder))
        sys.exit(cli.main())
