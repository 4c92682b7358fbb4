# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Times the query by model digest in an open index, ten times; prints CPU seconds."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from edgeprov.fleet.index.database import Index
from edgeprov.fleet.index.query import Query

with Index.open(Path(sys.argv[1]), write=False) as index:
    for _ in range(10):
        start = time.process_time()
        models = index.resolve_model(sys.argv[2])
        found = list(index.iterate(Query(model=models), limit=50))
        count, _records, _labels = index.count(Query(model=models))
        seconds = time.process_time() - start
        assert len(found) == min(50, count) > 0
        print(seconds)
