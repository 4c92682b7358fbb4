# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""TensorFlow: the labelled rows as tensors, in batches, and one model trained on them.

TensorFlow has no Parquet reader of its own: pyarrow reads, and its buffers become tensors batch by batch.
"""

import json
import math
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pyarrow.compute as pc
import pyarrow.dataset as ds
import tensorflow as tf

COLUMNS = ["n", "output_0", "label", "recorded_at", "device"]


def batches():
    for batch in ds.dataset(sys.argv[1], partitioning="hive").to_batches(columns=COLUMNS, batch_size=64):
        if batch.num_rows:
            outputs = batch["output_0"].flatten().to_numpy().reshape(batch.num_rows, width)
            labels = pc.fill_null(batch["label"], -1).to_numpy(zero_copy_only=False)
            times = batch["recorded_at"].cast("int64").to_numpy()
            yield outputs, labels, batch["n"].to_numpy(), times


tensor = json.loads(ds.dataset(sys.argv[1], partitioning="hive").schema.field("output_0").metadata[b"tensor"])
width = math.prod(tensor["shape"])
data = tf.data.Dataset.from_generator(
    batches,
    output_signature=(
        tf.TensorSpec((None, width), tf.int8),
        tf.TensorSpec((None,), tf.int64),
        tf.TensorSpec((None,), tf.int64),
        tf.TensorSpec((None,), tf.int64),
    ),
)
totals = {"rows": 0, "labelled": 0, "numbers": 0, "outputs": 0, "newest_ns": 0, "ones": 0}
for outputs, labels, numbers, times in data:
    totals["rows"] += int(outputs.shape[0])
    totals["labelled"] += int(tf.reduce_sum(tf.cast(labels >= 0, tf.int64)))
    totals["numbers"] += int(tf.reduce_sum(numbers))
    totals["outputs"] += int(tf.reduce_sum(tf.cast(outputs, tf.int64)))
    totals["newest_ns"] = max(totals["newest_ns"], int(tf.reduce_max(times)))
    totals["ones"] += int(tf.reduce_sum(tf.cast(labels == 1, tf.int64)))

examples = data.unbatch().filter(lambda _outputs, label, _n, _at: label >= 0)
examples = examples.map(lambda outputs, label, _n, _at: (tf.cast(outputs, tf.float32) / 128.0, label)).batch(8)
model = tf.keras.Sequential([tf.keras.Input((width,)), tf.keras.layers.Dense(1, activation="sigmoid")])
model.compile(optimizer="sgd", loss="binary_crossentropy")
loss = model.fit(examples, epochs=1, verbose=0).history["loss"][0]
print(json.dumps({**totals, "loss": float(loss)}))
