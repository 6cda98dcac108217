"""How far a mouth is open, from a picture's pixels.

The renderer's geometry says where to look; what belongs to the inside of the mouth (teeth, tongue, dark) and what to lips and
skin is learned from a few renders of the same person, whose every pixel is known, in slightly different colours: otherwise lips of another
red would be read as open.
"""

import numpy as np
from scipy.ndimage import map_coordinates

from .clip import Clip
from .speech.visemes import CHANNELS
from .talking_head import raster
from .talking_head.renderer import SAMPLES, Eyes, Landmarks, Mouth, Pose, Renderer

INSIDE = (raster.UPPER_TEETH, raster.LOWER_TEETH, raster.TONGUE, raster.CAVITY)
# Columns of the strip that is looked at, in parts of the mouth's half width, and its rows, in parts of the distance between
# the brows, from the closed lips' line down.
COLUMNS = np.linspace(-0.35, 0.35, 7)
ROWS = np.arange(-0.12, 0.50, 0.006)
# Mouths that teach the colours: jaw, lower, upper, wide, round, press, tuck, tongue.
LESSONS = np.array(
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
assert LESSONS.shape[1] == len(CHANNELS)
# How often each lesson is seen, and by how much its colours differ each time: standard deviations of a factor's logarithm and
# of what is added, for each channel.
TINTS, GAIN, OFFSET = 8, 0.05, 0.015


def mouth_of(curve: np.ndarray) -> Mouth:
    return Mouth(np.asarray(curve[:7], np.float32), float(curve[7]))


def strip_axes(closed: Landmarks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """In a frame whose face with closed lips is at `closed`: the middle of the mouth, from there to a corner, and down the
    face by the distance between the brows."""
    left, right = closed.corners
    centre, along = (left + right) / 2, (right - left) / 2
    brows = np.linalg.norm(closed.right_brow - closed.left_brow)
    return centre, along, np.array([-along[1], along[0]]) / np.linalg.norm(along) * brows


def strip(closed: Landmarks) -> np.ndarray:
    """(rows, columns, 2): where to look, x and y."""
    centre, along, down = strip_axes(closed)
    return centre + ROWS[:, None, None] * down + COLUMNS[None, :, None] * along


def colours(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) f64 in 0..1, bilinear."""
    at = [points[..., 1], points[..., 0]]
    return np.stack([map_coordinates(frame[..., k].astype(float), at, order=1, mode="nearest") for k in range(3)], -1) / 255


def features(colour: np.ndarray) -> np.ndarray:
    """(n, 10): the colour, its squares and products, and 1."""
    r, g, b = colour.reshape(-1, 3).T
    return np.stack([np.ones_like(r), r, g, b, r * r, g * g, b * b, r * g, r * b, g * b], 1)


class OpeningMeter:
    """For the frames of one clip, rendered at `size`."""

    def __init__(self, clip: Clip, size: int):
        self.clip, self.renderer = clip, Renderer(clip.who, size)
        known, labels, closed = [], [], []
        rng = np.random.default_rng(0)
        for pose in clip.poses[:: max(1, len(clip.poses) // 5)]:
            points = strip(self.closed(pose))
            for number, lesson in enumerate(LESSONS):
                frame, _ = self.renderer.render(pose, mouth_of(lesson), Eyes())
                inside = np.isin(self.renderer.kinds, INSIDE).astype(np.float32)
                at = [points[..., 1] * SAMPLES, points[..., 0] * SAMPLES]
                seen, label = colours(frame, points), map_coordinates(inside, at, order=1, mode="nearest").ravel()
                for _ in range(TINTS):
                    tinted = seen * np.exp(rng.normal(0, GAIN, 3)) + rng.normal(0, OFFSET, 3)
                    known.append(features(tinted))
                    labels.append(label)
                if number == 0:
                    closed.append(features(seen))
        self.weights = logistic_regression(np.concatenate(known), np.concatenate(labels))
        # What closed lips are read as, for the line between them is dark: the scale's zero.
        self.zero = float(np.mean([self._open(rows) for rows in closed]))

    def closed(self, pose: Pose) -> Landmarks:
        return self.renderer.locate(pose, Mouth())

    def true_openings(self) -> np.ndarray:
        """What the clip's own mouth does, by its geometry."""
        return self.openings_of(self.clip.curves)

    def openings_of(self, curves: np.ndarray) -> np.ndarray:
        """What a mouth that moves by `curves` does in this clip's poses."""
        places = zip(self.clip.poses, curves)
        return np.array([self.renderer.locate(pose, mouth_of(curve)).opening for pose, curve in places])

    def measure(self, frames: np.ndarray) -> np.ndarray:
        """(n, size, size, 3) u8, the clip's first n frames with whatever mouth → (n) openings, in parts of the distance
        between the brows."""
        return np.array([self._one(frame, pose) for frame, pose in zip(frames, self.clip.poses)])

    def _one(self, frame: np.ndarray, pose: Pose) -> float:
        return self._open(features(colours(frame, strip(self.closed(pose))))) - self.zero

    def _open(self, rows: np.ndarray) -> float:
        """`rows`: the features of one strip → the mean over its columns of how much of them is inside of the mouth."""
        inside = 1 / (1 + np.exp(-np.clip(rows @ self.weights, -30, 30)))
        return float(inside.sum() / len(COLUMNS) * (ROWS[1] - ROWS[0]))


def logistic_regression(x: np.ndarray, y: np.ndarray, rounds: int = 25) -> np.ndarray:
    """Newton's method with a little ridge; both kinds of pixels count the same."""
    balance = np.where(y > 0.5, 0.5 / max(y.mean(), 1e-3), 0.5 / max(1 - y.mean(), 1e-3))
    weights = np.zeros(x.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (balance * (p - y)) + 1e-3 * weights
        hessian = (x * (balance * np.maximum(p * (1 - p), 1e-6))[:, None]).T @ x + 1e-3 * np.eye(len(weights))
        weights = weights - np.linalg.solve(hessian, gradient)
    return weights
