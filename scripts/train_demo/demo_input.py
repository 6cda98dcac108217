"""Generates the demo's input: a clip of an unseen person, and two sentences in unseen voices.

    scripts/train_demo/demo_input [OUT]

Writes to OUT (default: `models/demo`): `face.mp4` (480 px, 25 fps, H.264), `voice-1.wav` and `voice-2.wav` (16 kHz mono),
`face.anchors.json` (anchors as the engine's detector finds them) and `face.mouth.json` (input of `src/demo/opening.rs`, which
measures the opening of the mouth).
"""

import json
import sys
from pathlib import Path

import numpy as np

from .clip import Clip
from .data.align import DETECTED, detected_anchors
from .engine import write_video, write_voice
from .opening import COLUMNS, ROWS, OpeningMeter, strip_axes
from .paths import REPOSITORY
from .speech.espeak import Voice, speak, with_pauses
from .speech.visemes import FPS, mouth_curves

SEED = 850_004
SECONDS, SIZE = 5.0, 480
VOICES = (
    (Voice("en-gb-x-gbclan+f3", rate=150, pitch=55), "Hello! I am only a drawing, but I say every word of this."),
    (Voice("en-gb-scotland+m5", rate=150, pitch=40), "Now somebody else is speaking, and my lips go with it."),
)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "models/demo"
    out.mkdir(parents=True, exist_ok=True)
    clip = Clip.silent(SEED, SECONDS)
    frames, landmarks = zip(*clip.frames(SIZE))
    write_video(out / "face.mp4", np.stack(frames), quality=20)
    anchors = [detected_anchors(face, DETECTED).round(2).tolist() for face in landmarks]
    write_json(out / "face.anchors.json", anchors)

    meter = OpeningMeter(clip, SIZE)
    target_openings = []
    for number, (voice, text) in enumerate(VOICES, 1):
        speech = with_pauses(speak(text, voice), 0.3, 0.3)
        if speech.seconds > SECONDS:
            raise SystemExit(f"voice {number} lasts {speech.seconds:.1f} s, expected at most {SECONDS} s")
        write_voice(out / f"voice-{number}.wav", speech.samples)
        curves = mouth_curves(speech, int(np.ceil(speech.seconds * FPS)))
        target_openings.append(rounded(meter.openings_of(curves), 5))
    strips = []
    for pose in clip.poses:
        centre, along, down = strip_axes(meter.closed(pose))
        strips.append({"centre": rounded(centre, 3), "along": rounded(along, 3), "down": rounded(down, 3)})
    mouth = {
        "frames": strips,
        "rows": rounded(ROWS, 4),
        "columns": rounded(COLUMNS, 4),
        "weights": rounded(meter.weights, 6),
        "zero": round(meter.zero, 6),
        "wanted": target_openings,
    }
    write_json(out / "face.mouth.json", mouth)


def rounded(values: np.ndarray, digits: int) -> list:
    return np.asarray(values, float).round(digits).tolist()


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
