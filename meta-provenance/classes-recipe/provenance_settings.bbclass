# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT

# The PROVENANCE_* variables that several recipes read: defaults, and a check of every value. Set them
# in local.conf, the distro or a kas file; README.md has the table.

PROVENANCE_SLOTS ?= "default"
PROVENANCE_REGISTRY ?= ""
PROVENANCE_REGISTRY_CREDENTIALS ?= ""
PROVENANCE_REGISTRY_ALLOW_HOSTS ?= ""
PROVENANCE_REGISTRY_TOKEN_HOSTS ?= ""
PROVENANCE_REGISTRY_CA_FILE ?= ""
PROVENANCE_REGISTRY_CLIENT_CERT ?= ""
PROVENANCE_REGISTRY_CLIENT_KEY ?= ""
PROVENANCE_REGISTRY_PLAIN_HTTP ?= "0"
PROVENANCE_DATA_TEMPLATE ?= "data/{device}/{year}"
PROVENANCE_RECORD_SYNC ?= "interval"
PROVENANCE_RECORD_INTERVAL_MS ?= "200"
PROVENANCE_RECORD_FULL ?= "stop"
PROVENANCE_RECORD_QUOTA_MB ?= "256"
PROVENANCE_RECORD_CAPTURE ?= "none"
PROVENANCE_SEAL_MAX_AGE_S ?= "86400"
PROVENANCE_SEAL_MIN_INTERVAL_S ?= "3600"
PROVENANCE_SEAL_SIGNATURES ?= "cosign notation"
PROVENANCE_UPLOAD_BYTES_PER_S ?= "0"
PROVENANCE_TPM_TCTI ?= "device:/dev/tpmrm0"
PROVENANCE_TPM_PCR ?= "14"
PROVENANCE_TPM_ALLOW_SIMULATOR ?= "0"
PROVENANCE_TIME_FLOOR ?= "2026-01-01T00:00:00Z"
PROVENANCE_RUNTIME ?= "ai-edge-litert"
PROVENANCE_RUNTIME_THREADS ?= "1"
PROVENANCE_DATA_DIR ?= "/data"
PROVENANCE_SERIAL_SOURCE ?= "auto"
PROVENANCE_TRUST_DIR ?= "example-trust.d"
PROVENANCE_ALLOW_EXAMPLE ?= "0"
PROVENANCE_UPDATE_GUARD ?= "1"

# The layer's place on disk must not be in a signature: builds in two folders share their results.
PROVENANCE_LAYERDIR[vardepvalue] = "layer"

def provenance_values(d):
    """All PROVENANCE_* variables, expanded."""
    names = {key.split(":")[0] for key in d.keys() if key.startswith("PROVENANCE_")}
    return {name: d.getVar(name) for name in names if d.getVar(name) is not None}

python () {
    import oeprov.settings
    for line in oeprov.settings.variable_problems(provenance_values(d)):
        raise bb.parse.SkipRecipe(line)
    trust = d.getVar("PROVENANCE_TRUST_DIR")
    if trust.startswith("/"):
        line = oeprov.settings.trust_problem(trust)
        if line:
            raise bb.parse.SkipRecipe(line)
}
