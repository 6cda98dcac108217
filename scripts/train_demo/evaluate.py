"""Whether the mouth follows the voice: the engine's own program on people, voices and sentences that were never trained on.

Started by `scripts/train_demo/evaluate`. Every person speaks one sentence in the input video (the source), is given another
(the voice), and the renderer shows what that would look like (the truth). Writes `evaluation.json`, `evaluation.md` with the
README's table, and `evaluation.png` to look at.
"""

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import map_coordinates

from .clip import Clip
from .config import LATENT, RESOLUTION
from .data.align import crop_size
from .data.mask import pixel_mask
from .engine import read_face_cache, read_video, sync, write_video, write_voice
from .opening import OpeningMeter
from .paths import REPOSITORY
from .speech.visemes import mouth_curves

FIRST_SEED = 800_000
SIZE = 480
# How far the best time offset is looked for, in frames.
REACH = 6
WANTED = {
    "correlation, mean": (">=", 0.85),
    "correlation, worst clip": (">=", 0.60),
    "correlation with another sentence's voice": ("<=", 0.20),
    "best time offset, largest, frames": ("<=", 1),
    "opening in silence, part of speaking": ("<=", 0.15),
    "PSNR of the generated region, mean, dB": (">=", 24),
}


@dataclass
class Person:
    """`source`: the clip with the source's mouth; `truth`: with the voice's; `other`: a third sentence's clip."""

    seed: int
    source: Clip
    truth: Clip
    other: Clip

    @classmethod
    def unseen(cls, seed: int) -> "Person":
        truth = Clip.random(seed, words=6, held_out=True)
        frames = len(truth.curves)

        def fitted(clip: Clip) -> np.ndarray:
            repeats = -(-frames // len(clip.curves))
            return np.tile(clip.curves, (repeats, 1))[:frames]

        source = replace(truth, curves=fitted(Clip.random(seed + 10_000, words=6, held_out=True)))
        return cls(seed, source, truth, Clip.random(seed + 20_000, words=6, held_out=True))


@dataclass
class Job:
    """One run of the engine."""

    frames: np.ndarray
    report: dict


class Bench:
    """Runs the engine on one person's video, in `folder`."""

    def __init__(self, model: Path, folder: Path, person: Person):
        self.model, self.folder, self.person = model, folder, person
        folder.mkdir(parents=True, exist_ok=True)
        self.source = np.stack([frame for frame, _ in person.source.frames(SIZE)])
        self.truth = np.stack([frame for frame, _ in person.truth.frames(SIZE)])
        write_video(folder / "source.mp4", self.source)

    def run(self, name: str, samples: np.ndarray, *options: str) -> Job:
        """`samples`: the voice. The output is lossless, so that only the model is measured."""
        write_voice(self.folder / f"{name}.wav", samples)
        out = self.folder / f"{name}.mkv"
        cache = ("--cache", str(self.folder / "cache"), "--codec", "ffv1", "--seed", "1")
        report = sync(self.folder / "source.mp4", self.folder / f"{name}.wav", out, self.model, *cache, *options)
        return Job(read_video(out)[: len(self.truth)], report)

    def regions(self) -> list[np.ndarray | None]:
        """(SIZE, SIZE) for every source frame: 1 where the engine generates; `None` where it found no face."""
        mask = pixel_mask(RESOLUTION)
        height, width = crop_size(RESOLUTION)
        y, x = np.mgrid[:SIZE, :SIZE].astype(float)
        regions: list[np.ndarray | None] = []
        for face in read_face_cache(next((self.folder / "cache").glob("*.faces")), (LATENT, LATENT, 4)):
            if face is None:
                regions.append(None)
                continue
            (a, b, c), (d, e, f) = face.matrix
            columns = (a * x + b * y + c + 0.5) * RESOLUTION / width - 0.5
            rows = (d * x + e * y + f + 0.5) * RESOLUTION / height - 0.5
            kept = map_coordinates(mask, [rows, columns], order=1, cval=1.0)
            regions.append((kept < 0.02).astype(float))
        return regions


def psnr(got: np.ndarray, want: np.ndarray, regions: list[np.ndarray | None]) -> float:
    """Over all frames' regions together."""
    total = weight = 0.0
    for one, other, region in zip(got, want, regions):
        if region is not None:
            total += ((one.astype(float) - other) ** 2 * region[..., None]).sum()
            weight += 3 * region.sum()
    return float(10 * np.log10(255**2 / (total / max(weight, 1))))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    count = min(len(a), len(b))
    a, b = a[:count], b[:count]
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0


def best_offset(got: np.ndarray, want: np.ndarray) -> int:
    """Frames by which `got` is late."""
    count = min(len(got), len(want))
    got, want = got[:count], want[:count]

    def at(late: int) -> float:
        return correlation(got[max(late, 0) : count + min(late, 0)], want[max(-late, 0) : count - max(late, 0)])

    return max(range(-REACH, REACH + 1), key=at)


def evaluate_person(bench: Bench, variants: bool) -> tuple[dict, np.ndarray]:
    """Figures, and (frames, SIZE, SIZE, 3) of what the voice made."""
    person = bench.person
    meter = OpeningMeter(person.truth, SIZE)
    samples = person.truth.speech.samples
    spoken = bench.run("voice", samples)
    openings = meter.measure(spoken.frames)
    truth = meter.true_openings()
    ceiling = meter.measure(bench.truth)
    regions = bench.regions()
    other = meter.measure(bench.run("other", fit(person.other.speech.samples, len(samples))).frames)
    silent = meter.measure(bench.run("silence", np.zeros_like(samples)).frames)
    figures = {
        "seed": person.seed,
        "voice": person.truth.voice.name,
        "text": person.truth.text,
        "frames": len(spoken.frames),
        "frames_without_face": spoken.report["frames_without_face"],
        "correlation": correlation(openings, truth),
        "correlation_ceiling": correlation(ceiling, truth),
        "correlation_other_voice": correlation(other, truth),
        "truths_correlation": correlation(mouth_curves(person.other.speech)[:, 0], person.truth.curves[:, 0]),
        "offset": best_offset(openings, truth),
        "opening": float(openings.mean()),
        "opening_truth": float(ceiling.mean()),
        "opening_in_silence": float(silent.mean()),
        "psnr": psnr(spoken.frames, bench.truth, regions),
        "psnr_source": psnr(bench.source, bench.truth, regions),
        "seconds_per_output_second": spoken.report["seconds_per_output_second"],
    }
    if variants:
        for name, options in (("guidance_1_5", ("--guidance-scale", "1.5")), ("deepcache", ("--deepcache",))):
            job = bench.run(name, samples, *options)
            moved = meter.measure(job.frames)
            figures[name] = {
                "correlation": correlation(moved, truth),
                "opening": float(moved.mean()),
                "psnr": psnr(job.frames, bench.truth, regions),
                "seconds_per_output_second": job.report["seconds_per_output_second"],
            }
    figures["curves"] = {
        "truth": truth.round(4).tolist(),
        "ceiling": ceiling.round(4).tolist(),
        "output": openings.round(4).tolist(),
    }
    return figures, spoken.frames


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    return np.tile(samples, -(-length // len(samples)))[:length]


def summary(people: list[dict]) -> dict[str, float]:
    def column(key: str) -> np.ndarray:
        return np.array([person[key] for person in people])

    figures = {
        "correlation, mean": column("correlation").mean(),
        "correlation, worst clip": column("correlation").min(),
        "correlation of the truth, measured alike": column("correlation_ceiling").mean(),
        "correlation with another sentence's voice": column("correlation_other_voice").mean(),
        "the same of the two sentences' truths": column("truths_correlation").mean(),
        "best time offset, largest, frames": np.abs(column("offset")).max(),
        "opening in silence, part of speaking": column("opening_in_silence").mean() / column("opening").mean(),
        "opening, part of the truth's": column("opening").mean() / column("opening_truth").mean(),
        "PSNR of the generated region, mean, dB": column("psnr").mean(),
        "PSNR, worst clip, dB": column("psnr").min(),
        "PSNR of the unchanged source, dB": column("psnr_source").mean(),
        "seconds per second of output": column("seconds_per_output_second").mean(),
        "frames without a face": sum(len(person["frames_without_face"]) for person in people),
    }
    for name, title in (("guidance_1_5", "guidance 1.5"), ("deepcache", "DeepCache")):
        both = [person for person in people if name in person]
        for key in ("correlation", "opening", "psnr", "seconds_per_output_second"):
            if both:
                change = np.mean([person[name][key] - person[key] for person in both])
                figures[f"{title}: change of {key.replace('_', ' ')}"] = change
    return {key: round(float(value), 4) for key, value in figures.items()}


def table(figures: dict[str, float]) -> tuple[str, bool]:
    lines, passed = ["| What | Asked for | Measured |", "|---|---|---|"], True
    for key, value in figures.items():
        sign, bound = WANTED.get(key, ("", None))
        if bound is not None:
            passed &= value >= bound if sign == ">=" else value <= bound
        asked = "" if bound is None else f"{'at least' if sign == '>=' else 'at most'} {bound}"
        lines.append(f"| {key} | {asked} | {value:g} |")
    return "\n".join(lines) + "\n", passed


def strip_of(bench: Bench, output: np.ndarray, figures: dict) -> np.ndarray:
    """Source, output and truth at eight moments, and the curves of opening below."""
    moments = np.linspace(0, len(output) - 1, 8).astype(int)
    rows = [np.concatenate(list(frames[moments]), 1) for frames in (bench.source, output, bench.truth)]
    picture = Image.fromarray(np.concatenate(rows)).resize((8 * 200, 3 * 200))
    plot = Image.new("RGB", (8 * 200, 120), "white")
    draw = ImageDraw.Draw(plot)
    for key, colour in (("truth", "black"), ("output", "red")):
        values = figures["curves"][key]
        points = [(x, 115 - 250 * y) for x, y in zip(np.linspace(0, 8 * 200, len(values)), values)]
        draw.line(points, fill=colour, width=2)
    return np.concatenate([np.asarray(picture), np.asarray(plot)])


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/train_demo/evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, default=REPOSITORY / "models/demo")
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--variants", type=int, default=5, help="people on whom guidance and DeepCache are tried as well")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/evaluate_demo")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    people, pictures = [], []
    for number in range(options.people):
        path = options.work / f"person{number:02}.json"
        if path.exists():
            people.append(json.loads(path.read_text()))
            continue
        bench = Bench(options.model, options.work / f"person{number:02}", Person.unseen(FIRST_SEED + number))
        figures, output = evaluate_person(bench, number < options.variants)
        people.append(figures)
        path.write_text(json.dumps(figures))
        shown = {key: value for key, value in figures.items() if key != "curves"}
        print(json.dumps(shown), flush=True)
        if number < 6:
            pictures.append(strip_of(bench, output, figures))
    figures = summary(people)
    text, passed = table(figures)
    (options.work / "evaluation.md").write_text(text)
    (options.work / "evaluation.json").write_text(json.dumps({"summary": figures, "people": people}, indent=1) + "\n")
    if pictures:
        Image.fromarray(np.concatenate(pictures)).save(options.work / "evaluation.png")
    print(text)
    if not passed:
        raise SystemExit("the model does not do what is asked for")


if __name__ == "__main__":
    main()
