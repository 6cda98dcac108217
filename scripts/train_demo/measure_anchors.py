"""Measures the anchors that the engine's detector finds on rendered faces, and whether it finds all faces.

    python -m train_demo.measure_anchors MODEL [FIRST [COUNT]]

MODEL: any model of 128 pixels, such as `small` of the golden set. Renders COUNT clips with seeds from FIRST on, runs the engine
on them and prints the constants for `data/align.py`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from .clip import Clip
from .data.align import DETECTED, TEMPLATE, crop_scale, detected_anchors
from .engine import read_face_cache, sync, write_video, write_voice

SIZE, RESOLUTION = 320, 128


def offsets(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Positions of the template's points relative to `points`, (3, 2), in the units of `DETECTED`."""
    template = TEMPLATE * crop_scale(RESOLUTION)
    positions = (template - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    along = points[1] - points[0]
    across = np.array([-along[1], along[0]])
    return np.stack([(positions - points) @ along, (positions - points) @ across], -1) / (along @ along)


def measure(seed: int, model: Path, folder: Path) -> np.ndarray:
    """Returns (frames, 3, 2): offsets in every frame with a face."""
    clip = Clip.random(seed)
    rendered = list(clip.frames(SIZE))
    video, voice, cache = folder / "clip.mp4", folder / "voice.wav", folder / f"cache{seed}"
    write_video(video, np.stack([frame for frame, _ in rendered]))
    write_voice(voice, clip.speech.samples)
    report = sync(video, voice, folder / "out.mp4", model, "--steps", "1", "--seed", "1", "--cache", str(cache))
    faces = read_face_cache(next(cache.glob("*.faces")), (RESOLUTION // 8, RESOLUTION // 8, 4))
    missing = [i for i, face in enumerate(faces) if face is None]
    print(f"seed {seed}: {len(faces)} frames, without a face: {missing}, report: {report['frames_without_face']}", flush=True)
    found = []
    for face, (_, landmarks) in zip(faces, rendered):
        if face is not None:
            points = detected_anchors(landmarks, np.zeros((3, 2)))
            found.append(offsets(face.matrix, points))
    return np.array(found)


def main() -> None:
    model = Path(sys.argv[1])
    first, count = (int(value) for value in (sys.argv[2:] + ["0", "10"][len(sys.argv) - 2 :]))
    with tempfile.TemporaryDirectory() as folder:
        people = [measure(seed, model, Path(folder)) for seed in range(first, first + count)]
    means = np.array([frames.mean(0) for frames in people])
    print("DETECTED", means.mean(0).round(3).tolist(), "before", DETECTED.tolist())
    print("SPREAD_OF_PEOPLE", means.std(0).mean().round(4), means.std(0).round(4).tolist())
    print("SPREAD_OF_FRAMES", np.mean([frames.std(0).mean() for frames in people]).round(4))


if __name__ == "__main__":
    main()
