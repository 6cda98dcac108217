"""The mouth mask of `models/src/mouth_mask.rs` in NumPy, read from the table in that file."""

import re

import numpy as np

from ..paths import REPOSITORY
from .align import resize_lanczos4

TABLE = REPOSITORY / "models/src/mouth_mask.rs"


def mouth_mask() -> np.ndarray:
    """(256, 256) u8: 255 where the face is kept, 0 where it is generated."""
    text = TABLE.read_text()
    spans = re.search(r"const SPANS: .*?= \[(.*?)\n\];", text, re.S)
    if not spans:
        raise SystemExit(f"no table `SPANS` in `{TABLE}`")
    mask = np.full((256, 256), 255, np.uint8)
    current = None
    for row, begin, end in re.findall(r"\((\d+), (\d+), (\d+)\)", spans[1]):
        # Each group of spans fills all rows to the bottom, overwriting the previous group.
        if row != current:
            mask[int(row) :] = 255
            current = row
        mask[int(row) :, int(begin) : int(end)] = 0
    return mask


def pixel_mask(resolution: int) -> np.ndarray:
    """(resolution, resolution) f32 in 0..1, with grey edges."""
    return resize_lanczos4(mouth_mask()[..., None], resolution, resolution)[..., 0].astype(np.float32) / 255


def latent_mask(resolution: int) -> np.ndarray:
    """(resolution / 8, resolution / 8) f32, nearest-resized."""
    return pixel_mask(resolution)[::8, ::8].copy()
