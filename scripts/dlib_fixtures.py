#!/usr/bin/env python3
"""Generates the test data of models/tests/dlib_landmarks.rs.

Trains a small shape predictor with dlib on procedural pictures, and records the landmarks that dlib predicts with it on such
pictures, and with the published 68-point model if given.

    pip install dlib-bin numpy
    python scripts/dlib_fixtures.py models/tests/data [shape_predictor_68_face_landmarks.dat]
"""

import json
import pathlib
import sys

import dlib
import numpy as np

POINTS = 5


def wave(phase):
    return np.abs(phase % 510 - 255)


def picture(width, height, seed):
    """RGB picture by the same integer formula as in models/tests/dlib_landmarks.rs."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    channels = []
    for c in range(3):
        u = wave(x * (3 + c) + y * (5 - c) + seed * 37)
        v = wave(x * (2 + c) + (10000 - y) * (7 - 2 * c) + seed * 101)
        channels.append(u * v // 255)
    return np.stack(channels, -1).astype(np.uint8)


def train(path):
    """Trains on landmarks that depend slightly on the picture, so that the trees have something to learn."""
    images, objects = [], []
    for seed in range(12):
        image = picture(120, 100, seed)
        box = dlib.rectangle(20 + seed, 15, 90 + seed, 85)
        parts = []
        for i in range(POINTS):
            x, y = 25 + seed + 15 * i, 30 + 10 * (i % 3)
            shift = int(image[y, x].sum()) // 90
            parts.append(dlib.point(x + shift, y - shift // 2))
        images.append(image)
        objects.append([dlib.full_object_detection(box, parts)])
    options = dlib.shape_predictor_training_options()
    options.cascade_depth, options.tree_depth, options.num_trees_per_cascade_level = 3, 3, 8
    options.feature_pool_size, options.oversampling_amount, options.nu = 40, 4, 0.3
    options.random_seed = "latentsync"
    dlib.train_shape_predictor(images, objects, options).save(str(path))


def cases(predictor, boxes):
    results = []
    for width, height, seed, box in boxes:
        shape = predictor(picture(width, height, seed), dlib.rectangle(*box))
        points = [[p.x, p.y] for p in shape.parts()]
        results.append({"width": width, "height": height, "seed": seed, "box": box, "points": points})
    return results


def main(folder, published):
    path = folder / "shape_predictor_tiny.dat"
    train(path)
    # The last boxes extend beyond the picture, where dlib reads black.
    boxes = [
        (120, 100, 3, [21, 14, 92, 86]),
        (160, 90, 30, [40, 10, 101, 71]),
        (400, 300, 31, [100, 60, 300, 260]),
        (120, 100, 32, [-20, -15, 60, 65]),
        (90, 120, 33, [50, 70, 130, 150]),
    ]
    result = {"tiny": cases(dlib.shape_predictor(str(path)), boxes)}
    if published:
        result["published"] = cases(dlib.shape_predictor(published), boxes)
    (folder / "dlib.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
