# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Publishing of models: Kitfile, layers, signature, push."""
