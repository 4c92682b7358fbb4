# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The TPM and its stand-in on machines without one; the only importers of tpm2_pytss."""
