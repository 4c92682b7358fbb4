# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Programs that read what `collect` wrote with other people's libraries only: nothing of edgeprov is imported.

Each takes the folder and prints one JSON object; tests/fleet/test_readers.py compares them.
"""
