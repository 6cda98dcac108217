"""Runs the engine's command-line program, and reads and writes its files."""

import json
import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from .paths import REPOSITORY
from .speech.espeak import SAMPLE_RATE


def program() -> Path:
    """Path of the program: `LATENTSYNC_BIN`, otherwise the release build."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    path = Path(os.environ.get("LATENTSYNC_BIN", target / "release/latentsync"))
    if not path.is_file():
        raise SystemExit(f"`{path}` does not exist: run `cargo build --release --locked`, or set LATENTSYNC_BIN")
    return path


def sync(video: Path, audio: Path, out: Path, model: Path | str, *options: str) -> dict:
    """Runs one job and returns its report."""
    command = [program(), "sync", "--video", video, "--audio", audio, "-o", out, "--model", model, "--json", "-q", *options]
    result = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    if result.returncode != 0:
        raise SystemExit(f"`latentsync sync` on `{video}` failed with exit status {result.returncode}: {result.stdout}")
    return json.loads(result.stdout)


def write_video(path: Path, frames: np.ndarray, quality: int = 14) -> None:
    """Encodes (n, height, width, 3) u8 as H.264 at 25 fps; `quality`: x264's CRF."""
    _, height, width, _ = frames.shape
    command = (
        f"ffmpeg -loglevel error -y -f rawvideo -pix_fmt rgb24 -s {width}x{height} -r 25 -i - -vf scale=out_color_matrix=bt709 "
        f"-c:v libx264 -crf {quality} -pix_fmt yuv420p -colorspace bt709 -color_primaries bt709 -color_trc bt709"
    )
    subprocess.run([*command.split(), str(path)], input=frames.tobytes(), check=True)


def read_video(path: Path) -> np.ndarray:
    """Decodes a video to (n, height, width, 3) u8."""
    probe = "ffprobe -v error -select_streams v:0 -show_entries stream=width,height -of csv=p=0"
    size = subprocess.run([*probe.split(), str(path)], stdout=subprocess.PIPE, text=True, check=True).stdout
    width, height = (int(part) for part in size.strip().split(",")[:2])
    command = ["ffmpeg", "-loglevel", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def write_voice(path: Path, samples: np.ndarray) -> None:
    soundfile.write(path, samples, SAMPLE_RATE, subtype="PCM_16")


@dataclass
class CachedFace:
    """`matrix`: (2, 3), frame to crop. `posterior`: (4, h, w, channels), mean and standard deviation of the masked face and of
    the whole face."""

    matrix: np.ndarray
    posterior: np.ndarray


def read_face_cache(path: Path, latents: tuple[int, int, int]) -> list[CachedFace | None]:
    """Reads the face cache that `--cache` writes (`src/face/cache.rs`): one entry per frame, `None` without a face."""
    data = path.read_bytes()
    if data[:8] != b"LSFACES1":
        raise SystemExit(f"`{path}` is not a face cache of this version")
    (frames,) = struct.unpack_from("<Q", data, 8)
    faces: list[CachedFace | None] = [None] * frames
    offset = 17
    for _ in range(frames):
        number, length, _checksum = struct.unpack_from("<III", data, offset)
        offset += 12
        if length:
            matrix = np.frombuffer(data, "<f8", 6, offset).reshape(2, 3)
            values = np.frombuffer(data, "<f4", (length - 53) // 4, offset + 53)
            faces[number] = CachedFace(matrix, values.reshape(4, *latents) if len(values) else values)
        offset += length
    return faces
