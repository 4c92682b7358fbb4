# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The verifier: publish, enroll, index, check, collect, audit, prove."""
