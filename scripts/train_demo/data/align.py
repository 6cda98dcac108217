"""Face alignment and crop of the engine (`src/stages/align_faces.rs`) in NumPy."""

from dataclasses import dataclass

import numpy as np
from numba import njit

from ..talking_head.renderer import Landmarks

TEMPLATE = np.array([[17.0, 20.0], [58.0, 20.0], [37.5, 40.0]])
SMOOTHING = 0.2
OUTSIDE = 127.0

# Offsets of the engine's anchors (after the similarity transform) from the renderer's landmarks: along and across the line
# between the brows, relative to its length. Measured by `python -m train_demo.measure_anchors` on twelve people and 1060
# frames, with a face found in every frame. The spreads are standard deviations between people and between frames.
DETECTED = np.array([[-0.161, 0.107], [0.167, 0.106], [0.017, 0.051]])
SPREAD_OF_PEOPLE = 0.021
SPREAD_OF_FRAMES = 0.008


def crop_scale(resolution: int) -> float:
    return resolution / 256 * 2.8


def crop_size(resolution: int) -> tuple[int, int]:
    """Height and width of a crop before it is resized to a square."""
    return int(100 * crop_scale(resolution)), int(75 * crop_scale(resolution))


@dataclass
class Aligner:
    """Computes the affine matrices of one video's faces, in order."""

    resolution: int
    nose_bias: np.ndarray | None = None

    def matrix(self, anchors: np.ndarray) -> np.ndarray:
        """`anchors`: (3, 2), left brow, right brow, nose → (2, 3), frame to crop."""
        source, target = np.round(anchors), TEMPLATE * crop_scale(self.resolution)
        (center, deviation, points), (to_center, to_deviation, to_points) = normalised(source), normalised(target)
        cosine = (points * to_points).sum()
        sine = (points[:, 0] * to_points[:, 1] - points[:, 1] * to_points[:, 0]).sum()
        zoom = to_deviation / deviation / np.hypot(cosine, sine)
        cosine, sine = zoom * cosine, zoom * sine
        bias = to_points[2] - points[2]
        if self.nose_bias is not None:
            bias = SMOOTHING * self.nose_bias + (1 - SMOOTHING) * bias
        self.nose_bias = bias
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        return np.concatenate([rotation, (to_center - rotation @ center + bias)[:, None]], 1)


def normalised(points: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    center = points.mean(0)
    centred = points - center
    # Unbiased, over all six coordinates.
    deviation = np.sqrt((centred**2).sum() / 5)
    return center, deviation, centred / deviation


@njit(cache=True)
def warp(frame, inverse, height, width, fill):
    """(h, w, 3) u8 → (height, width, 3) u8: bilinear, truncated, `fill` outside the frame."""
    out = np.empty((height, width, 3), np.uint8)
    rows, columns, _ = frame.shape
    for y in range(height):
        for x in range(width):
            sx = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
            sy = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
            x0, y0 = int(np.floor(sx)), int(np.floor(sy))
            fx, fy = sx - x0, sy - y0
            for k in range(3):
                total = 0.0
                for dy in range(2):
                    for dx in range(2):
                        i, j = y0 + dy, x0 + dx
                        inside = 0 <= i < rows and 0 <= j < columns
                        value = float(frame[i, j, k]) if inside else fill
                        total += value * (fy if dy else 1 - fy) * (fx if dx else 1 - fx)
                out[y, x, k] = int(min(max(total, 0.0), 255.0))
    return out


def lanczos_matrix(size: int, new_size: int) -> np.ndarray:
    """(new_size, size): weights of OpenCV's `INTER_LANCZOS4` along one dimension, rounded to 11 bits."""
    at = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    before = np.floor(at).astype(int)
    distance = (at - before)[:, None] + 3 - np.arange(8)
    y = np.where(np.abs(distance) < 1e-6, 1.0, distance * np.pi / 4)
    weights = np.where(np.abs(distance) < 1e-6, 1e30, np.where(np.arange(8) % 2 == 0, 1, -1) * np.sin(y) / y**2)
    weights = np.round(weights / weights.sum(1, keepdims=True) * 2048) / 2048
    matrix = np.zeros((new_size, size))
    columns = np.clip(before[:, None] - 3 + np.arange(8), 0, size - 1)
    np.add.at(matrix, (np.arange(new_size)[:, None], columns), weights)
    return matrix


def resize_lanczos4(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w, channels) u8 → (height, width, channels) u8."""
    down, across = lanczos_matrix(image.shape[0], height), lanczos_matrix(image.shape[1], width)
    out = np.einsum("yi,ijc,xj->yxc", down, image.astype(np.float64), across, optimize=True)
    return np.clip(np.round(out), 0, 255).astype(np.uint8)


def crop(frame: np.ndarray, matrix: np.ndarray, resolution: int) -> np.ndarray:
    """(h, w, 3) u8 → (resolution, resolution, 3) u8."""
    inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
    return resize_lanczos4(warp(frame, inverse, *crop_size(resolution), OUTSIDE), resolution, resolution)


def detected_anchors(landmarks: Landmarks, offsets: np.ndarray) -> np.ndarray:
    """Simulates the engine's detector: the renderer's landmarks moved by `offsets`, (3, 2), in the units of `DETECTED`."""
    points = np.stack([landmarks.left_brow, landmarks.right_brow, landmarks.nose])
    along = points[1] - points[0]
    across = np.array([-along[1], along[0]])
    return points + offsets[:, :1] * along + offsets[:, 1:] * across
