# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""pandas: the folder as one frame; a tensor is a numpy array in each row."""

import json
import sys

import pandas as pd

frame = pd.read_parquet(sys.argv[1])
print(
    json.dumps(
        {
            "rows": len(frame),
            "labelled": int(frame["label"].notna().sum()),
            "numbers": int(frame["n"].sum()),
            "outputs": int(sum(int(row.astype("int64").sum()) for row in frame["output_0"])),
            "devices": int(frame["device"].nunique()),
            "newest_ns": int(frame["recorded_at"].max().value),
            "ones": int((frame["label"] == 1).sum()),
        }
    )
)
