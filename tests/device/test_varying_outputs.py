# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Models whose outputs have another shape each time: through the interpreter and the protocol into a kit, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import edgeprov
from edgeprov.device.runtime import InterpreterEngine
from edgeprov.device.seal import seal
from edgeprov.errors import ModelRuntimeError
from tests.device.test_record_session import stream
from tests.support.kits import blocks_of
from tests.support.site import WDBC, Site
from tests.support.tflite_models import boxes_and_grid, detector, positions

SCORES = np.array([0.9, 0.1, 0.7, 0.2, 0.6, 0.0, 0.3, 0.4], np.float32)
BOXES = np.arange(32, dtype=np.float32).reshape(8, 4)


@pytest.fixture
def detecting(ready: Site) -> Site:
    ready.install(ready.publish(detector(), name="detector"))
    return ready


def sealed_blocks(site: Site) -> list[Any]:
    (sealed,) = [item for item in seal(site.context) if item.entry.kind == "kit"]
    _, parts = site.verify(site.context.state().layout, sealed.entry.digest)
    return blocks_of(parts)


def test_what_a_detector_finds_comes_back_with_its_shapes(detecting: Site) -> None:
    """Three boxes, none, all eight: from the interpreter into the kit and out of its blocks."""
    with edgeprov.open_device() as device:
        model = device.load_model()
        assert [tensor.shape for tensor in model.outputs] == [(-1, 4), (-1,), (-1, 1), ()]
        results = [model.run(scores, BOXES) for scores in (SCORES, np.zeros_like(SCORES), np.ones_like(SCORES))]
    assert [[array.shape for array in result.outputs] for result in results] == [
        [(3, 4), (3,), (3, 1), ()],
        [(0, 4), (0,), (0, 1), ()],
        [(8, 4), (8,), (8, 1), ()],
    ]
    (block,) = sealed_blocks(detecting)
    for row, result in enumerate(results):
        record = block.record(row)
        assert record.n == result.record.n
        assert record.shapes == (*(array.shape for array in result.outputs[:3]), None)
        for raw, array, tensor in zip(record.outputs, result.outputs, block.header.outputs, strict=True):
            shape = record.shapes[block.header.outputs.index(tensor)] or ()
            assert np.array_equal(np.frombuffer(raw, tensor.dtype).reshape(shape), array)
    assert record.outputs[0] == BOXES.tobytes()


def test_two_varying_sizes_of_one_output(ready: Site) -> None:
    ready.install(ready.publish(positions(), name="positions"))
    with edgeprov.open_device() as device:
        model = device.load_model()
        found = model.run(np.eye(3, 4, dtype=np.float32))
        nothing = model.run(np.zeros((3, 4), np.float32))
    assert found.outputs[0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert nothing.outputs[0].shape == (0, 2)
    (block,) = sealed_blocks(ready)
    assert block.content.output_shapes(0) == [(3, 2), (0, 2)]


def test_a_model_of_fixed_shapes_records_none(ready: Site) -> None:
    """Also where the converter left the batch open: -1 in the signature alone does not make an output vary."""
    engine = InterpreterEngine(WDBC.read_bytes())
    assert [tensor.shape for tensor in engine.outputs] == [(1, 1)]
    with edgeprov.open_device() as device:
        model = device.load_model()
        model.run(np.zeros(model.inputs[0].shape, np.int8))
    (block,) = sealed_blocks(ready)
    assert block.record(0).shapes is None


def test_an_output_that_the_model_file_does_not_announce_is_refused() -> None:
    engine = InterpreterEngine(detector())
    engine._outputs = tuple(
        announced(port, shape=(2, 4)) if port.tensor.name == "found" else port for port in engine._outputs
    )
    with pytest.raises(ModelRuntimeError, match="came out as"):
        engine.invoke((SCORES, BOXES))


def announced(port: Any, *, shape: tuple[int, ...]) -> Any:
    from edgeprov._dataclass import replace

    return replace(port, tensor=replace(port.tensor, shape=shape))


VARYING = [
    {"name": "boxes", "shape": [-1, 4], "dtype": "float32"},
    {"name": "grid", "shape": [-1, -1], "dtype": "uint8"},
]
ONE = VARYING[:1]


FIXED = [{"name": "StatefulPartitionedCall_1:0", "shape": [1, 1], "dtype": "int8"}]


def hello(site: Site, outputs: list[dict[str, Any]]) -> list[Any]:
    """The request, on a device with a model that has these outputs."""
    if outputs != FIXED:
        site.install(site.publish(boxes_and_grid(grid=len(outputs) > 1), name="boxes"))
    return ["hello", {"v": 1, "outputs": outputs}]


def test_a_client_gives_shapes_where_they_do_not_follow_from_the_length(ready: Site) -> None:
    row = ["record", 5, [bytes(32), b"abcdef"], None, None, [[2, 4], [3, 2]]]
    empty = ["record", 5, [b"", b""], None, None, [[0, 4], [0, 7]]]
    assert stream(ready, hello(ready, VARYING), row, empty)[1:] == [["recorded", 1], ["recorded", 2]]
    (block,) = sealed_blocks(ready)
    assert [block.record(row).shapes for row in (0, 1)] == [((2, 4), (3, 2)), ((0, 4), (0, 7))]


def test_one_varying_size_follows_from_the_length(ready: Site) -> None:
    rows = [["record", 5, [bytes(16 * count)]] for count in (3, 0, 1)]
    assert [answer[0] for answer in stream(ready, hello(ready, ONE), *rows)] == ["ready", *["recorded"] * 3]
    (block,) = sealed_blocks(ready)
    assert block.content.output_shapes(0) == [(3, 4), (0, 4), (1, 4)]


@pytest.mark.parametrize(
    ("outputs", "row"),
    [
        (VARYING, [[bytes(32), b"abcdef"]]),  # the second does not follow
        (VARYING, [[bytes(32), b"abcdef"], None, None, [[2, 4]]]),
        (VARYING, [[bytes(32), b"abcdef"], None, None, [[2, 4], None]]),
        (VARYING, [[bytes(32), b"abcdef"], None, None, [[2, 4], [7, 1]]]),
        (VARYING, [[bytes(32), b"abcdef"], None, None, [[4, 2], [3, 2]]]),
        (VARYING, [[bytes(32), b"abcdef"], None, None, [[2, 4], [-3, -2]]]),
        (VARYING, [[bytes(32), b"abcdef"], None, None, [[2, 4], [6]]]),
        (VARYING, [[bytes(32), b"abcdef"], None, None, [2, 3]]),
        (VARYING, [[bytes(32), b"abcdef"], None, None, "ab"]),
        (VARYING, [[bytes(32), b"abcdef"], None, None, {"a": 1}]),
        (ONE, [[bytes(30)]]),
        (ONE, [[bytes(32)], None, None, [[3, 4]]]),
        (FIXED, [[b"a"], None, None, [[1, 1]]]),
        (FIXED, [[b"a"], None, None, [None]]),
    ],
)
def test_shapes_that_do_not_fit_are_refused_and_use_no_number(
    ready: Site, outputs: list[dict[str, Any]], row: list[Any]
) -> None:
    good = ["record", 5, [bytes(32), b"abcdef"], None, None, [[2, 4], [3, 2]]]
    good = good if len(outputs) == 2 else ["record", 5, [bytes(16) if outputs == ONE else b"a"]]
    _, refused, recorded = stream(ready, hello(ready, outputs), ["record", 5, *row], good, code=52)
    assert refused[0] == "error"
    assert refused[1]["error"] == "TensorMismatch", json.dumps(refused[1])
    assert recorded == ["recorded", 1]
    assert len(sealed_blocks(ready)) == 1
