"""Generates the training set on disk: one file per clip and per recording, so that an interruption loses at most one."""

import os
import sys
from pathlib import Path

import numpy as np

from ..clip import Clip
from ..config import RESOLUTION, SEED, Data
from ..networks.whisper import log_mel
from ..speech.espeak import SAMPLE_RATE, Speech, concatenate, speak, with_pauses
from ..speech.sentences import random_sentence, random_voice
from ..speech.visemes import mouth_curves
from .align import DETECTED, SPREAD_OF_FRAMES, SPREAD_OF_PEOPLE, Aligner, crop, detected_anchors

# Maximum length of a recording: below the 30 s of the encoder's window.
RECORDING_SECONDS = 29.5


def save(path: Path, **arrays: np.ndarray) -> None:
    """Writes the file atomically."""
    unfinished = path.with_suffix(".part.npz")
    np.savez(unfinished, **arrays)
    os.replace(unfinished, path)


def augmented(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random gain, and in half of the cases weak noise, because real recordings have no digital silence."""
    samples = samples * rng.uniform(0.3, 1.0)
    if rng.random() < 0.5:
        samples = samples + rng.standard_normal(len(samples)) * 10 ** rng.uniform(-4.5, -2.6)
    return np.clip(samples, -1, 1).astype(np.float32)


def make_clip(seed: int, data: Data, silent: bool) -> dict[str, np.ndarray]:
    """`faces`: (frames, 128, 128, 3) u8. `curves`: (frames, 8). `mel`: of the whole sentence. `first`: index of the first frame
    in the sentence."""
    rng = np.random.default_rng([SEED, seed, 0xDA])
    if silent:
        clip = Clip.silent(seed, 3.0, data.head_scale)
    else:
        clip = Clip.random(seed, int(rng.integers(5, 9)), data.head_scale)
    first = int(rng.integers(0, max(1, len(clip.curves) - data.clip_frames)))
    part = slice(first, first + data.clip_frames)
    clip.poses, clip.eyes = clip.poses[part], clip.eyes[part]
    offsets = DETECTED + rng.normal(0, SPREAD_OF_PEOPLE, (3, 2))
    aligner = Aligner(RESOLUTION)
    faces = []
    for frame, landmarks in clip.frames(data.frame_sizes[seed % len(data.frame_sizes)], clip.curves[part]):
        anchors = detected_anchors(landmarks, offsets + rng.normal(0, SPREAD_OF_FRAMES, (3, 2)))
        faces.append(crop(frame, aligner.matrix(anchors), RESOLUTION))
    return {
        "faces": np.stack(faces),
        "curves": clip.curves[part],
        "mel": log_mel(augmented(clip.speech.samples, rng)).numpy().astype(np.float16),
        "first": np.array(first),
    }


def make_recording(number: int) -> dict[str, np.ndarray]:
    """`mel`: (80, frames), up to 30 s; `curves`: (video frames, 8)."""
    rng = np.random.default_rng([SEED, number, 0x5E])
    limit = RECORDING_SECONDS if rng.random() < 0.6 else rng.uniform(2, RECORDING_SECONDS)
    parts: list[Speech] = []
    voice = random_voice(rng)
    while True:
        if rng.random() < 0.7:
            voice = random_voice(rng)
        sentence = speak(random_sentence(rng, int(rng.integers(2, 10))), voice)
        part = with_pauses(sentence, rng.uniform(0, 0.8) ** 2, rng.uniform(0, 1.0) ** 2)
        if parts and sum(p.seconds for p in parts) + part.seconds > limit:
            break
        parts.append(part)
    speech = concatenate(parts)
    samples = speech.samples[: int(RECORDING_SECONDS * SAMPLE_RATE)]
    curves = mouth_curves(speech)[: len(samples) * 25 // SAMPLE_RATE]
    return {"mel": log_mel(augmented(samples, rng)).numpy().astype(np.float16), "curves": curves}


def build(work: Path, data: Data, share: tuple[int, int] = (0, 1)) -> None:
    """Generates the missing files. `share`: index of this process, and number of processes."""
    index, processes = share
    clips, recordings = work / "clips", work / "recordings"
    for folder in (clips, recordings):
        folder.mkdir(parents=True, exist_ok=True)
    for number in range(index, data.recordings, processes):
        path = recordings / f"{number:05}.npz"
        if not path.exists():
            save(path, **make_recording(number))
    jobs = [(f"{i:05}", data.first_seed + i, i % data.silent_every == 7) for i in range(data.clips)]
    jobs += [(f"v{i:04}", data.first_validation_seed + i, False) for i in range(data.validation_clips)]
    for done, (name, seed, silent) in enumerate(jobs[index::processes]):
        path = clips / f"{name}.npz"
        if not path.exists():
            save(path, **make_clip(seed, data, silent))
            if done % 20 == 0:
                print(f"clip {done} of {len(jobs[index::processes])}", file=sys.stderr, flush=True)
