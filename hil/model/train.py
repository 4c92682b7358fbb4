#!/usr/bin/env python3
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Train the models of the demo and the tests, quantised to int8, from data bundled with scikit-learn.

    pip install tensorflow-cpu==2.21.0 keras==3.15.1 scikit-learn==1.9.1
    python hil/model/train.py --out DIR [--only wdbc|digits|mobilenet]

Three models: ``wdbc`` (breast cancer Wisconsin, the demo's diagnosis), ``digits`` (8x8 images) and
an untrained MobileNetV2 that serves for timing only. Both data sets are UCI's, CC BY 4.0. Seeds are
fixed; the digests of what was written are printed, to be compared with the files in the tree.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split

SEED = 7
TEST_SHARE = 0.25


def quantise(model: tf.keras.Model, samples: Iterable[np.ndarray]) -> bytes:
    """Full int8, inputs and outputs included; ``samples`` (float32, one case each) set the ranges."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([case[None].astype(np.float32)] for case in samples)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def accuracy(content: bytes, cases: np.ndarray, truth: np.ndarray, decide: Callable[[np.ndarray], int]) -> float:
    """Share of ``cases`` (float32) that the int8 model decides as ``truth`` says."""
    interpreter = tf.lite.Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = source["quantization"]
    out_scale, out_zero = target["quantization"]
    right = 0
    for case, answer in zip(cases, truth, strict=True):
        quantised = np.clip(np.round(case / scale + zero), -128, 127).astype(np.int8)
        interpreter.set_tensor(source["index"], quantised[None])
        interpreter.invoke()
        raw = interpreter.get_tensor(target["index"])[0].astype(np.float32)
        right += decide((raw - out_zero) * out_scale) == answer
    return right / len(truth)


def train_wdbc(out: Path) -> None:
    """30 standardised features, benign above 0.5."""
    data = load_breast_cancer()
    features, test, answers, truth = train_test_split(
        data.data.astype(np.float32), data.target, test_size=TEST_SHARE, random_state=SEED, stratify=data.target
    )
    mean, std = features.mean(0), features.std(0)
    features, test = (features - mean) / std, (test - mean) / std
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [layers.Input((30,)), layers.Dense(32, "relu"), layers.Dense(16, "relu"), layers.Dense(1, "sigmoid")]
    )
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    model.fit(features, answers, epochs=60, batch_size=32, verbose=0)
    content = quantise(model, features)
    save(out / "wdbc_int8.tflite", content, accuracy(content, test, truth, lambda value: int(value[0] > 0.5)))
    np.savez(out / "wdbc_test.npz", X=test, y=truth, mu=mean, sd=std)


def train_digits(out: Path) -> None:
    """8x8 grey images, ten classes."""
    data = load_digits()
    images, test, answers, truth = train_test_split(
        (data.images / 16).astype(np.float32)[..., None],
        data.target,
        test_size=TEST_SHARE,
        random_state=SEED,
        stratify=data.target,
    )
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu", padding="same"),
            layers.Flatten(),
            layers.Dense(10, "softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(images, answers, epochs=25, batch_size=32, verbose=0)
    content = quantise(model, images[:400])
    save(out / "digits_int8.tflite", content, accuracy(content, test, truth, lambda value: int(value.argmax())))
    np.savez(out / "digits_test.npz", X=test, y=truth)


def build_mobilenet(out: Path) -> None:
    """MobileNetV2 with random weights: a model of real size for timing, with no claim about its answers."""
    model = tf.keras.applications.MobileNetV2(weights=None, input_shape=(224, 224, 3), classes=1000)
    noise = np.random.default_rng(0).uniform(-1, 1, (16, 224, 224, 3)).astype(np.float32)
    save(out / "mobilenetv2_224_untrained_int8.tflite", quantise(model, noise), None)


def save(path: Path, content: bytes, score: float | None) -> None:
    """Write and say what was written."""
    path.write_bytes(content)
    shown = "untrained" if score is None else f"int8 accuracy {score:.4f}"
    print(f"{path.name}: {len(content)} bytes, {shown}, sha256:{hashlib.sha256(content).hexdigest()}")


MODELS = {"wdbc": train_wdbc, "digits": train_digits, "mobilenet": build_mobilenet}


def main() -> None:
    """Train what was asked for; each model starts from the same seed, so the order does not matter."""
    parser = argparse.ArgumentParser(description="Train the demo's and the tests' models.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=MODELS)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    tf.config.experimental.enable_op_determinism()
    for name, build in MODELS.items():
        if arguments.only in (None, name):
            tf.keras.backend.clear_session()  # layer names count up, and end up in the file
            tf.keras.utils.set_random_seed(SEED)
            build(arguments.out)


if __name__ == "__main__":
    main()
