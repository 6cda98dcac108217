#!/usr/bin/env python3
"""Generates the test data of models/tests/insightface.rs.

Two small ONNX networks with random weights, with the inputs, outputs and layer types of InsightFace's det_10g.onnx and
2d106det.onnx (padded pooling, Resize, depthwise convolutions, PRelu), and the output of the `insightface` package with them on
procedural pictures.

    pip install insightface onnx onnxruntime opencv-python-headless
    python scripts/insightface_fixtures.py models/tests/data
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from insightface.app.common import Face
from insightface.model_zoo.landmark import Landmark
from insightface.model_zoo.scrfd import SCRFD
from onnx import TensorProto, helper, numpy_helper

OPSET = 11
STRIDES = (8, 16, 32)


class Graph:
    """Collects nodes and weights; every method returns the name of its output."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights, self.count = [], [], 0

    def constant(self, array, name=None):
        name = name or f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op, inputs, output=None, **attributes):
        self.count += 1
        output = output or f"t{self.count}"
        name = attributes.pop("name", f"{op}_{self.count}")
        self.nodes.append(helper.make_node(op, inputs, [output], name=name, **attributes))
        return output

    def conv(self, x, inputs, outputs, kernel=3, stride=1, groups=1, gain=1.4, bias=None):
        fan = inputs // groups * kernel * kernel
        weight = self.random.normal(0, gain / np.sqrt(fan), (outputs, inputs // groups, kernel, kernel))
        bias = self.random.normal(0, 0.1, outputs) if bias is None else bias
        pad = kernel // 2
        return self.node(
            "Conv",
            [x, self.constant(weight.astype(np.float32)), self.constant(np.asarray(bias, np.float32))],
            kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, group=groups, dilations=[1, 1],
        )

    def model(self, name, inputs, outputs):
        graph = helper.make_graph(self.nodes, name, inputs, outputs, initializer=self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=6)
        onnx.checker.check_model(model)
        return model


def upsampled(graph, x, like):
    """Nearest-neighbour upsampling to the size of `like`, computed at run time as in exported networks."""
    size = graph.node("Shape", [like])
    size = graph.node("Slice", [size, *(graph.constant(np.array([v], np.int64)) for v in (2, 4, 0))])
    head = graph.node("Slice", [graph.node("Shape", [x]), *(graph.constant(np.array([v], np.int64)) for v in (0, 2, 0))])
    size = graph.node("Concat", [head, size], axis=0)
    empty = graph.constant(np.array([], np.float32))
    return graph.node(
        "Resize", [x, empty, empty, size], mode="nearest", nearest_mode="floor",
        coordinate_transformation_mode="asymmetric", cubic_coeff_a=-0.75,
    )


def detector():
    """Like SCRFD-10G: residual blocks with average-pooled shortcuts, a feature pyramid, one head per level."""
    graph = Graph(7)
    x = "input.1"
    for inputs, outputs, stride in ((3, 8, 2), (8, 8, 1)):
        x = graph.node("Relu", [graph.conv(x, inputs, outputs, stride=stride)])
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=0)
    levels, width = [], 8
    for outputs in (12, 16, 24):
        shortcut = graph.node(
            "AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0], ceil_mode=1,
        )
        shortcut = graph.conv(shortcut, width, outputs, kernel=1)
        body = graph.node("Relu", [graph.conv(x, width, outputs, stride=2)])
        body = graph.conv(body, outputs, outputs)
        x = graph.node("Relu", [graph.node("Add", [body, shortcut])])
        levels.append(graph.conv(x, outputs, 16, kernel=1))
        width = outputs
    levels[1] = graph.node("Add", [levels[1], upsampled(graph, levels[2], levels[1])])
    levels[0] = graph.node("Add", [levels[0], upsampled(graph, levels[1], levels[0])])
    results = {"score": [], "bbox": [], "kps": []}
    names = iter("448 471 494 451 474 497 454 477 500".split())
    names = {kind: [next(names) for _ in STRIDES] for kind in results}
    # Boxes of about 60, 220 and 320 pixels of the input: in some frames the smallest are below the minimum size.
    box_distance = (4.0, 7.0, 5.0)
    for level, feature in enumerate(levels):
        feature = graph.node("Relu", [graph.conv(feature, 16, 16, groups=16)])
        feature = graph.node("Relu", [graph.conv(feature, 16, 16, kernel=1)])
        for kind, values in (("score", 1), ("bbox", 4), ("kps", 10)):
            bias = {"score": [-4.0] * 2, "bbox": [box_distance[level], box_distance[level] * 1.3] * 4, "kps": [0.0] * 20}[kind]
            gain = {"score": 2.0, "bbox": 0.4, "kps": 0.4}[kind]
            out = graph.conv(feature, 16, 2 * values, gain=gain, bias=bias)
            if kind == "bbox":
                out = graph.node("Mul", [out, graph.constant(np.array(0.9 + 0.1 * level, np.float32))])
            out = graph.node("Transpose", [out], perm=[2, 3, 0, 1])
            shape = graph.constant(np.array([-1, values], np.int64))
            if kind == "score":
                out = graph.node("Reshape", [out, shape])
                graph.node("Sigmoid", [out], names[kind][level])
            else:
                graph.node("Reshape", [out, shape], names[kind][level])
            results[kind].append(helper.make_tensor_value_info(names[kind][level], TensorProto.FLOAT, [None, values]))
    data = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, None, None])
    return graph.model("detector", [data], [value for kind in results.values() for value in kind])


def landmarks():
    """Like 2d106det: normalisation inside the graph, depthwise separable blocks with PRelu, one dense layer."""
    graph = Graph(11)
    x = graph.node("Sub", ["data", graph.constant(np.array([127.5], np.float32))], name="_minusscalar0")
    x = graph.node("Mul", [x, graph.constant(np.array([1 / 128], np.float32))], name="_mulscalar0")

    def activated(x, channels):
        parts = (graph.random.normal(1, 0.1, channels), graph.random.normal(0, 0.1, channels),
                 graph.random.normal(0, 0.1, channels), graph.random.uniform(0.5, 1.5, channels))
        x = graph.node("BatchNormalization", [x, *(graph.constant(p.astype(np.float32)) for p in parts)], epsilon=1e-3)
        return graph.node("PRelu", [x, graph.constant(np.full((channels, 1, 1), 0.25, np.float32))])

    x, width = activated(graph.conv(x, 3, 8, stride=2), 8), 8
    for outputs in (12, 12, 16, 16, 16):
        x = activated(graph.conv(x, width, width, stride=2, groups=width), width)
        x, width = activated(graph.conv(x, width, outputs, kernel=1), outputs), outputs
    x = graph.node("Flatten", [x])
    weight = graph.random.normal(0, 0.1 / np.sqrt(144), (212, 144)).astype(np.float32)
    bias = graph.random.uniform(-0.6, 0.6, 212).astype(np.float32)
    graph.node("Gemm", [x, graph.constant(weight), graph.constant(bias)], "fc1", transB=1)
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["None", 3, 192, 192])
    return graph.model("landmarks", [data], [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, 212])])


def picture(width, height, seed):
    """RGB picture by the same integer formula as in models/tests/insightface.rs."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    def wave(phase):
        return np.abs(phase % 510 - 255)

    channels = []
    for c in range(3):
        u = wave(x * (3 + c) + y * (5 - c) + seed * 37)
        v = wave(x * (2 + c) + (10000 - y) * (7 - 2 * c) + seed * 101)
        channels.append(u * v // 255)
    return np.stack(channels, -1).astype(np.uint8)


def select_face(faces):
    """The face that LatentSync selects: the first of the largest faces with an accepted size and aspect ratio."""
    best, largest = None, 0
    for face in faces:
        x1, y1, x2, y2 = (int(v) for v in face["bbox"])
        w, h = x2 - x1, y2 - y1
        if w >= 50 and h >= 80 and 0.2 <= w / h <= 1.5 and face["score"] >= 0.5 and w * h > largest:
            best, largest = face, w * h
    return best


def anchors(points):
    points = np.round(np.asarray(points)).astype(int)
    groups = ([43, 48, 49, 51, 50], [101, 102, 103, 104, 105], [74, 77, 83, 86])
    return [points[group].mean(0).tolist() for group in groups]


def main(folder):
    detector_file, landmark_file = folder / "scrfd_like.onnx", folder / "landmarks106_like.onnx"
    onnx.save(detector(), detector_file)
    onnx.save(landmarks(), landmark_file)
    scrfd = SCRFD(str(detector_file))
    scrfd.prepare(-1, input_size=(512, 512), det_thresh=0.5)
    landmark = Landmark(str(landmark_file))
    landmark.prepare(-1)
    cases = []
    for width, height, seed in ((640, 480, 1), (360, 640, 2), (512, 512, 3), (1280, 720, 4), (300, 200, 5), (90, 60, 6)):
        # The package expects OpenCV's channel order and reverses it for the networks.
        image = np.ascontiguousarray(picture(width, height, seed)[:, :, ::-1])
        boxes, _ = scrfd.detect(image)
        faces = []
        for box in boxes:
            points = landmark.get(image, Face(bbox=box[:4], det_score=box[4]))
            faces.append({"bbox": [float(v) for v in box[:4]], "score": float(box[4]), "points": points.tolist()})
        best = select_face(faces)
        print(width, height, len(faces), "faces, selected", best and [round(v) for v in best["bbox"]])
        cases.append({
            "width": width, "height": height, "seed": seed,
            "boxes": [[round(v, 3) for v in face["bbox"]] + [round(face["score"], 5)] for face in faces],
            "chosen": best and {
                "bbox": [int(v) for v in best["bbox"]],
                "points": [[round(v, 3) for v in p] for p in best["points"]],
                "anchors": anchors(best["points"]),
            },
        })
    (folder / "insightface.json").write_text(json.dumps({"cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
