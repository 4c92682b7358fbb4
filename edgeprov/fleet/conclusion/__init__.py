# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The conclusion: a pure function from what is known of a fleet to one word, with its reasons."""
