"""The demo's input: a clip of a person never trained on, and two sentences in voices never trained on.

    scripts/train_demo/demo_input [OUT]

Writes `face.mp4` (480 px, 25 fps, H.264), `voice-1.wav` and `voice-2.wav` (16 kHz mono) into OUT (`models/demo`).
"""

import sys
from pathlib import Path

import numpy as np

from .clip import Clip
from .engine import write_video, write_voice
from .paths import REPOSITORY
from .speech.espeak import Voice, speak, with_pauses

SEED = 850_004
SECONDS, SIZE = 4.0, 480
VOICES = (
    (Voice("en-us+f3", rate=150, pitch=55), "Hello! I am only a drawing, but I say every word of this."),
    (Voice("en-gb-scotland+m5", rate=145, pitch=40), "Two voices, one face. Watch how my mouth follows."),
)


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "models/demo"
    out.mkdir(parents=True, exist_ok=True)
    clip = Clip.silent(SEED, SECONDS)
    write_video(out / "face.mp4", np.stack([frame for frame, _ in clip.frames(SIZE)]), quality=20)
    for number, (voice, text) in enumerate(VOICES, 1):
        speech = with_pauses(speak(text, voice), 0.3, 0.3)
        if speech.seconds > 5:
            raise SystemExit(f"voice {number} lasts {speech.seconds:.1f} s, at most 5 are wanted")
        write_voice(out / f"voice-{number}.wav", speech.samples)


if __name__ == "__main__":
    main()
