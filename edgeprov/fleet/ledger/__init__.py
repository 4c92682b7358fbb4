# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The ledger: what a collector learned, one signed table a day (FORMAT.md section "Ledger")."""
