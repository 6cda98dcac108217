"""Measures the opening of a mouth from the pixels of a frame.

The renderer's geometry gives the position of the mouth. A logistic regression classifies pixels as inside of the mouth (teeth,
tongue, cavity) or not (lips, skin). It is fitted on labelled renders of the same person with varied colours; without the
variation, lips of a different red would be classified as inside.
"""

import numpy as np
from scipy.ndimage import map_coordinates

from .clip import Clip
from .speech.visemes import CHANNELS
from .talking_head import raster
from .talking_head.renderer import SAMPLES, Eyes, Landmarks, Mouth, Pose, Renderer

INSIDE = (raster.UPPER_TEETH, raster.LOWER_TEETH, raster.TONGUE, raster.CAVITY)
# Columns of the sampled strip, relative to half the mouth's width, and rows, relative to the distance between the brows,
# measured downwards from the line between the closed lips.
COLUMNS = np.linspace(-0.35, 0.35, 7)
ROWS = np.arange(-0.12, 0.50, 0.006)
# Mouth shapes of the training renders: jaw, lower, upper, wide, round, press, tuck, tongue.
TRAINING_SHAPES = np.array(
    [
        [0, 0, 0, 0, 0, 0.1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0, 0],
        [0.15, 0.1, 0.1, 0, 0, 0, 0, 0],
        [0.3, 0.3, 0.3, 0.5, 0, 0, 0, 0.5],
        [0.6, 0.3, 0.3, 0.2, 0, 0, 0, 0],
        [1, 0.4, 0.3, 0, 0, 0, 0, 0],
        [0.3, 0.1, 0.1, 0, 0.8, 0, 0, 0],
        [0.2, 0.3, 0.3, 0.8, 0, 0, 0, 1],
    ]
)
assert TRAINING_SHAPES.shape[1] == len(CHANNELS)
# Colour variations per training render, and the standard deviations of the log gain and of the offset of each channel.
TINTS, GAIN, OFFSET = 8, 0.05, 0.015


def mouth_of(curve: np.ndarray) -> Mouth:
    return Mouth(np.asarray(curve[:7], np.float32), float(curve[7]))


def strip_axes(closed: Landmarks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axes of the strip, for a frame with landmarks `closed` when the lips are closed: centre of the mouth, vector to a corner,
    and vector down the face with the length of the distance between the brows."""
    left, right = closed.corners
    centre, along = (left + right) / 2, (right - left) / 2
    brows = np.linalg.norm(closed.right_brow - closed.left_brow)
    return centre, along, np.array([-along[1], along[0]]) / np.linalg.norm(along) * brows


def strip(closed: Landmarks) -> np.ndarray:
    """(rows, columns, 2): sample positions, x and y."""
    centre, along, down = strip_axes(closed)
    return centre + ROWS[:, None, None] * down + COLUMNS[None, :, None] * along


def colours(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear samples, (rows, columns, 3) f64 in 0..1."""
    at = [points[..., 1], points[..., 0]]
    return np.stack([map_coordinates(frame[..., k].astype(float), at, order=1, mode="nearest") for k in range(3)], -1) / 255


def features(colour: np.ndarray) -> np.ndarray:
    """(n, 10): all monomials of the colour up to degree 2."""
    r, g, b = colour.reshape(-1, 3).T
    return np.stack([np.ones_like(r), r, g, b, r * r, g * g, b * b, r * g, r * b, g * b], 1)


class OpeningMeter:
    """Measures frames of one clip, rendered at `size`."""

    def __init__(self, clip: Clip, size: int):
        self.clip, self.renderer = clip, Renderer(clip.who, size)
        inputs, labels, closed = [], [], []
        rng = np.random.default_rng(0)
        for pose in clip.poses[:: max(1, len(clip.poses) // 5)]:
            points = strip(self.closed(pose))
            for number, shape in enumerate(TRAINING_SHAPES):
                frame, _ = self.renderer.render(pose, mouth_of(shape), Eyes())
                inside = np.isin(self.renderer.kinds, INSIDE).astype(np.float32)
                at = [points[..., 1] * SAMPLES, points[..., 0] * SAMPLES]
                observed, label = colours(frame, points), map_coordinates(inside, at, order=1, mode="nearest").ravel()
                for _ in range(TINTS):
                    tinted = observed * np.exp(rng.normal(0, GAIN, 3)) + rng.normal(0, OFFSET, 3)
                    inputs.append(features(tinted))
                    labels.append(label)
                if number == 0:
                    closed.append(features(observed))
        self.weights = logistic_regression(np.concatenate(inputs), np.concatenate(labels))
        # Reading for closed lips, which is not 0 because the line between them is dark; subtracted from all measurements.
        self.zero = float(np.mean([self._open(rows) for rows in closed]))

    def closed(self, pose: Pose) -> Landmarks:
        return self.renderer.locate(pose, Mouth())

    def true_openings(self) -> np.ndarray:
        """Openings of the clip's own mouth, from the geometry."""
        return self.openings_of(self.clip.curves)

    def openings_of(self, curves: np.ndarray) -> np.ndarray:
        """Openings of a mouth with the given `curves` in the poses of this clip, from the geometry."""
        steps = zip(self.clip.poses, curves)
        return np.array([self.renderer.locate(pose, mouth_of(curve)).opening for pose, curve in steps])

    def measure(self, frames: np.ndarray) -> np.ndarray:
        """`frames`: (n, size, size, 3) u8, the clip's first n frames with any mouth → (n) openings, relative to the distance
        between the brows."""
        return np.array([self._one(frame, pose) for frame, pose in zip(frames, self.clip.poses)])

    def _one(self, frame: np.ndarray, pose: Pose) -> float:
        return self._open(features(colours(frame, strip(self.closed(pose))))) - self.zero

    def _open(self, rows: np.ndarray) -> float:
        """`rows`: features of one strip → length of the part inside the mouth, averaged over the columns."""
        inside = 1 / (1 + np.exp(-np.clip(rows @ self.weights, -30, 30)))
        return float(inside.sum() / len(COLUMNS) * (ROWS[1] - ROWS[0]))


def logistic_regression(x: np.ndarray, y: np.ndarray, rounds: int = 25) -> np.ndarray:
    """Newton's method with a small ridge penalty; both classes have equal total weight."""
    balance = np.where(y > 0.5, 0.5 / max(y.mean(), 1e-3), 0.5 / max(1 - y.mean(), 1e-3))
    weights = np.zeros(x.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (balance * (p - y)) + 1e-3 * weights
        hessian = (x * (balance * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ x + 1e-3 * np.eye(len(weights))
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights
