"""Random slow head movements, blinks and gaze."""

import numpy as np

from .renderer import Eyes, Pose


def drift(rng: np.random.Generator, frames: int, size: float, seconds: float) -> np.ndarray:
    """(frames): smooth random motion around 0 with standard deviation `size` and periods of at least `seconds`."""
    t = np.arange(frames) / 25
    waves = 4
    frequency = rng.uniform(0.15, 1.0, waves) / seconds
    phase = rng.uniform(0, 2 * np.pi, waves)
    return size * np.sqrt(2 / waves) * np.sin(2 * np.pi * frequency * t[:, None] + phase).sum(1)


def random_poses(rng: np.random.Generator, frames: int, scale: float) -> list[Pose]:
    """`scale`: half the height of the head, relative to the height of the frame."""
    u = rng.uniform
    lively = u(0.3, 1.0)
    yaw = u(-0.22, 0.22) + drift(rng, frames, 0.07 * lively, 1.6)
    pitch = u(-0.08, 0.10) + drift(rng, frames, 0.04 * lively, 1.4)
    roll = u(-0.07, 0.07) + drift(rng, frames, 0.03 * lively, 1.8)
    x = 0.5 + u(-0.03, 0.03) + drift(rng, frames, 0.012 * lively, 2.0)
    y = 0.52 + u(-0.02, 0.02) + drift(rng, frames, 0.010 * lively, 2.0)
    size = scale * (1 + drift(rng, frames, 0.012, 2.5))
    return [Pose(*values) for values in zip(yaw, pitch, roll, x, y, size)]


def random_eyes(rng: np.random.Generator, frames: int) -> list[Eyes]:
    """Blinks of 0.2 s every few seconds, and a gaze that alternates between fixations and saccades."""
    closed = np.zeros(frames)
    blink = np.array([0.35, 0.9, 1.0, 0.7, 0.3])
    at = int(rng.integers(0, 60))
    while at < frames:
        part = blink[: frames - at]
        closed[at : at + len(part)] = part
        at += int(rng.integers(45, 130))
    gaze = np.zeros((frames, 2))
    at, direction = 0, rng.normal(0, 0.05, 2)
    while at < frames:
        gaze[at:] = direction
        at += int(rng.integers(12, 60))
        direction = rng.normal(0, 0.08, 2) * (1, 0.6)
    return [Eyes(float(c), (float(g[0]), float(g[1]))) for c, g in zip(closed, gaze)]
