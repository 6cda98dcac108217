"""Plot of a training log."""

import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(log: Path, path: Path) -> None:
    """Draws one row per stage: losses on the left, validation metrics on unseen people on the right."""
    series: dict[str, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        for key, value in entry.items():
            if key not in ("stage", "step", "of", "step_seconds"):
                series[entry["stage"]][key].append((entry["step"], value))
    figure, axes = pyplot.subplots(len(series), 2, figsize=(11, 2.6 * len(series)), squeeze=False)
    for row, (stage, figures) in zip(axes, series.items()):
        for key, points in figures.items():
            side = row[1] if key.startswith("validation_") else row[0]
            side.plot(*zip(*points), label=key.removeprefix("validation_"), marker="." if side is row[1] else None)
        row[0].set_yscale("log")
        row[0].set_title(f"{stage}: loss")
        row[1].set_title(f"{stage}: unseen people")
        for side in row:
            side.set_xlabel("step")
            side.grid(alpha=0.3)
            if side.lines:
                side.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
