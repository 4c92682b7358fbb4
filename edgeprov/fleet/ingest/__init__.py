# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Ingestion: what arrives from registries and sticks, and stamps on it."""
