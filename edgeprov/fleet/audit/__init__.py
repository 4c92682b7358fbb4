# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The audit: devices, series, clocks and models judged for a period, as one report."""
