# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""The PROVENANCE_* variables: what each may hold, and the device's configuration made of them.

Runs in BitBake's own Python (3.9 and later, standard library only) and, in tests/layer, without BitBake.
Every message starts with the name of the variable that has to change.
"""

import difflib
import json
import os
import re

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SLOT = re.compile(r"[a-z0-9-]{1,32}")
REGISTRY = re.compile(r"(oci:/[^\s\"\\]+|[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[a-z0-9._-]+)*)")
HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?")
ABSOLUTE = re.compile(r"/[^\s\"\\]*")
MEBIBYTE = 1024 * 1024

RUNTIMES = {
    "tflite-runtime": "python3-tensorflow-lite",
    "ai-edge-litert": "python3-ai-edge-litert",
    "none": "",
}


class Setting:
    """One variable, and the key of edgeprov.toml that it sets (empty: none)."""

    def __init__(self, key, default, accepts, explain, factor=1):
        self.key = key
        self.default = default
        self.accepts = accepts
        self.explain = explain
        self.factor = factor

    def problem(self, name, value):
        """One line for a person, or None."""
        if callable(self.accepts):
            if self.accepts(value):
                return None
            return f'{name} = "{value}": must be {self.explain}'
        if value in self.accepts:
            return None
        return f'{name} = "{value}": must be one of {", ".join(self.accepts)}'

    def toml(self, value):
        """The TOML value of a value without problem."""
        if self.explain.startswith("a list"):
            return json.dumps(value.split())
        if self.explain.startswith("a number"):
            return str(int(value) * self.factor)
        if self.explain.startswith("a time"):
            return value
        if self.accepts == ("0", "1"):
            return "true" if value == "1" else "false"
        return json.dumps(value)


def _matches(pattern, empty=False):
    return lambda value: (empty and not value) or pattern.fullmatch(value) is not None


def _between(low, high):
    return lambda value: value.isascii() and value.isdigit() and low <= int(value) <= high


def _each(accepts, empty=False):
    return lambda value: bool(empty or value.split()) and all(map(accepts, value.split()))


_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_TCTI = re.compile(r"auto|device:/dev/[a-z0-9]+|swtpm:[a-z0-9=,./:-]+")
_SERIAL = re.compile(r"auto|dmi|devicetree|machine-id|none|file:/[^\s\"\\]+")
_TEMPLATE = re.compile(r"[a-z0-9._/{}-]+")
_FLAG = ("0", "1")

SETTINGS = {
    "PROVENANCE_SLOTS": Setting(
        "device.slots",
        "default",
        _each(SLOT.fullmatch),
        "a list of slots, each of a-z, 0-9 and '-', at most 32 long",
    ),
    "PROVENANCE_REGISTRY": Setting(
        "registry.name", "", _matches(REGISTRY, empty=True), "host[:port]/prefix or oci:/folder, without scheme and tag"
    ),
    "PROVENANCE_REGISTRY_CREDENTIALS": Setting(
        "registry.credentials_file", "", _matches(ABSOLUTE, empty=True), "an absolute path on the device"
    ),
    "PROVENANCE_REGISTRY_ALLOW_HOSTS": Setting(
        "registry.allow_hosts", "", _each(HOST.fullmatch, empty=True), "a list of host[:port]"
    ),
    "PROVENANCE_REGISTRY_TOKEN_HOSTS": Setting(
        "registry.token_hosts", "", _each(HOST.fullmatch, empty=True), "a list of host[:port]"
    ),
    "PROVENANCE_REGISTRY_CLIENT_CERT": Setting(
        "registry.client_certificate", "", _matches(ABSOLUTE, empty=True), "an absolute path on the device"
    ),
    "PROVENANCE_REGISTRY_CLIENT_KEY": Setting(
        "registry.client_key", "", _matches(ABSOLUTE, empty=True), "an absolute path on the device"
    ),
    "PROVENANCE_REGISTRY_PLAIN_HTTP": Setting("registry.plain_http", "0", _FLAG, ""),
    "PROVENANCE_DATA_TEMPLATE": Setting(
        "registry.data_template",
        "data/{device}/{year}",
        _matches(_TEMPLATE),
        "a repository with {device}, {year}, {month}, {day}, {bin}, {model}",
    ),
    "PROVENANCE_RECORD_SYNC": Setting("record.sync", "interval", ("every", "interval", "seal"), ""),
    "PROVENANCE_RECORD_INTERVAL_MS": Setting(
        "record.interval_ms", "200", _between(1, 3_600_000), "a number of ms, 1 to 3600000"
    ),
    "PROVENANCE_RECORD_FULL": Setting("record.full", "stop", ("stop", "discard-oldest"), ""),
    "PROVENANCE_RECORD_QUOTA_MB": Setting(
        "record.quota_bytes", "256", _between(1, 1_048_576), "a number of MiB, 1 to 1048576", MEBIBYTE
    ),
    "PROVENANCE_RECORD_CAPTURE": Setting("record.capture", "none", ("none", "digest", "sampled", "full"), ""),
    "PROVENANCE_SEAL_MAX_AGE_S": Setting(
        "seal.max_age_s", "86400", _between(1, 2**31 - 1), "a number of seconds, 1 or more"
    ),
    "PROVENANCE_SEAL_MIN_INTERVAL_S": Setting(
        "seal.min_kit_interval_s", "3600", _between(0, 2**31 - 1), "a number of seconds"
    ),
    "PROVENANCE_SEAL_SIGNATURES": Setting(
        "seal.signatures", "cosign notation", _each(("cosign", "notation").__contains__), "a list of cosign, notation"
    ),
    "PROVENANCE_UPLOAD_BYTES_PER_S": Setting(
        "upload.bandwidth_bytes_per_s", "0", _between(0, 2**40), "a number of bytes per second, 0 for no limit"
    ),
    "PROVENANCE_TPM_TCTI": Setting(
        "tpm.tcti", "device:/dev/tpmrm0", _matches(_TCTI), "auto, device:/dev/... or swtpm:..."
    ),
    "PROVENANCE_TPM_PCR": Setting("tpm.pcr", "14", _between(8, 15), "a number of a PCR, 8 to 15"),
    "PROVENANCE_TPM_ALLOW_SIMULATOR": Setting("tpm.allow_simulator", "0", _FLAG, ""),
    "PROVENANCE_TIME_FLOOR": Setting(
        "trust.time_floor", "2026-01-01T00:00:00Z", _matches(_TIME), "a time like 2026-01-01T00:00:00Z"
    ),
    "PROVENANCE_RUNTIME": Setting("runtime.name", "ai-edge-litert", tuple(RUNTIMES), ""),
    "PROVENANCE_RUNTIME_THREADS": Setting("runtime.threads", "1", _between(1, 256), "a number of threads, 1 to 256"),
    "PROVENANCE_DATA_DIR": Setting(
        "",
        "/data",
        _matches(re.compile(r"/[A-Za-z0-9_/]*[A-Za-z0-9_]")),
        "an absolute path of a-z, A-Z, 0-9, '_' and '/'",
    ),
    "PROVENANCE_SERIAL_SOURCE": Setting(
        "", "auto", _matches(_SERIAL), "auto, dmi, devicetree, machine-id, none or file:/path"
    ),
    "PROVENANCE_ALLOW_EXAMPLE": Setting("", "0", _FLAG, ""),
    "PROVENANCE_UPDATE_GUARD": Setting("", "1", _FLAG, ""),
}

# Names that are read elsewhere: files, models, and what only the classes use.
OTHERS = (
    "PROVENANCE_BAKE_AT",
    "PROVENANCE_BAKE_PYTHON",
    "PROVENANCE_DATA_SIZE",
    "PROVENANCE_LAYERDIR",
    "PROVENANCE_MODEL_DIGEST",
    "PROVENANCE_MODEL_LAYOUT",
    "PROVENANCE_MODEL_LICENSE",
    "PROVENANCE_MODEL_URI",
    "PROVENANCE_REGISTRY_CA_FILE",
    "PROVENANCE_SOURCE_DIR",
    "PROVENANCE_TRUST_DIR",
    "PROVENANCE_WIC_EFI_PLUGIN",
    "PROVENANCE_WIC_PARTITION_PLUGIN",
)


def variable_problems(values):
    """Check all variables of this layer.

    Args:
        values: Name to expanded value, of every variable that starts with PROVENANCE_.

    Returns:
        One line per problem, starting with the variable's name.
    """
    problems = []
    known = set(SETTINGS) | set(OTHERS)
    for name in sorted(set(values) - known):
        near = difflib.get_close_matches(name, sorted(known), 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        problems.append(f"{name}: meta-provenance has no such variable{hint}")
    for name, setting in SETTINGS.items():
        problem = setting.problem(name, _value(values, name))
        if problem:
            problems.append(problem)
    return problems


def model_problems(slots, flags, digest, layout):
    """Check the pins of the models.

    Args:
        slots: Value of PROVENANCE_SLOTS.
        flags: Slot to (digest, layout) as set by varflags; missing ones are None.
        digest: Value of PROVENANCE_MODEL_DIGEST, for slots without a flag.
        layout: Value of PROVENANCE_MODEL_LAYOUT, likewise.

    Returns:
        One line per problem, starting with the variable's name.
    """
    problems = []
    names = slots.split()
    for slot in sorted(set(flags) - set(names)):
        problems.append(
            f'PROVENANCE_SLOTS = "{slots}": lacks "{slot}", for which PROVENANCE_MODEL_DIGEST[{slot}] or _LAYOUT is set'
        )
    for slot in names:
        pinned, folder = model_of(slot, flags, digest, layout)
        variable = f"PROVENANCE_MODEL_DIGEST[{slot}]" if len(names) > 1 else "PROVENANCE_MODEL_DIGEST"
        if not pinned:
            problems.append(f"{variable} is not set: the model is pinned by sha256:<64 hex digits>")
        elif not DIGEST.fullmatch(pinned):
            problems.append(f'{variable} = "{pinned}": must be sha256:<64 lower-case hex digits>, never a tag')
        variable = f"PROVENANCE_MODEL_LAYOUT[{slot}]" if len(names) > 1 else "PROVENANCE_MODEL_LAYOUT"
        if not folder:
            problems.append(f"{variable} is not set: name the folder of an OCI layout that holds the model kit")
        elif os.path.isabs(folder) and not os.path.exists(folder):
            problems.append(f'{variable} = "{folder}": no such folder or archive')
    return problems


def model_of(slot, flags, digest, layout):
    """Digest and layout of a slot: its own flags, else the plain variables."""
    own = flags.get(slot, (None, None))
    return own[0] or digest or "", own[1] or layout or ""


def config_toml(values, trust_dir, ca_file=""):
    """The text of edgeprov.toml. What equals edgeprov's own default is written too: an image is its own record."""
    tables = {}
    for name, setting in SETTINGS.items():
        value = _value(values, name)
        if not setting.key or (setting.default == "" and value == ""):
            continue
        if name == "PROVENANCE_RUNTIME" and value == "none":
            value = "auto"  # the vendor's own package; edgeprov takes whichever module is there
        table, key = setting.key.split(".")
        tables.setdefault(table, {})[key] = setting.toml(value)
    tables.setdefault("trust", {})["dir"] = json.dumps(trust_dir)
    if ca_file:
        tables.setdefault("registry", {})["ca_file"] = json.dumps(ca_file)
    lines = [
        "# Written by meta-provenance at build time. Change it on one device in /etc/edgeprov/edgeprov.toml.d/.",
        "",
    ]
    for table, keys in tables.items():
        lines += [f"[{table}]", *(f"{key} = {value}" for key, value in keys.items()), ""]
    return "\n".join(lines)


def trust_problem(folder):
    """Whether a trust folder can vouch for a model; one line starting with the variable's name, or None."""
    if not os.path.isdir(folder):
        return f'PROVENANCE_TRUST_DIR = "{folder}": no such folder'
    names = sorted(os.listdir(folder))
    if not [name for name in names if name.startswith("publisher") and name.endswith(".pem")]:
        return f'PROVENANCE_TRUST_DIR = "{folder}": holds no publisher*.pem, so no model could ever be verified'
    if "policy.toml" not in names:
        return f'PROVENANCE_TRUST_DIR = "{folder}": holds no policy.toml, and without it everything is denied'
    for name in names:
        with open(os.path.join(folder, name), "rb") as file:
            if b"PRIVATE KEY" in file.read():
                return f'PROVENANCE_TRUST_DIR = "{folder}": {name} holds a private key, which must not go into an image'
    return None


def unpacked(base, name):
    """Where BitBake put a folder or file that SRC_URI names with ``subdir=``: it keeps an absolute path whole."""
    whole = os.path.join(base, name.lstrip("/"))
    return whole if os.path.exists(whole) else os.path.join(base, os.path.basename(name))


def is_example(folder):
    """Whether this is the layer's own trust folder, whose key everybody could have had."""
    return os.path.isfile(os.path.join(folder, "EXAMPLE"))


def rootfs_problems(root, values, image_features):
    """Check an image's root file system before it is packed.

    Args:
        root: Its folder.
        values: As in variable_problems.
        image_features: IMAGE_FEATURES, split.

    Returns:
        One line per problem, starting with the name of the variable to change.
    """

    def there(path):
        return os.path.lexists(os.path.join(root, path))

    problems = []
    if not there("usr/bin/edgeprov"):
        problems.append("IMAGE_INSTALL: lacks packagegroup-provenance, although IMAGE_CLASSES has provenance_image")
        return problems
    if not there("usr/share/edgeprov/models/index.json"):
        problems.append("IMAGE_INSTALL: lacks a recipe that inherits provenance_model, so the image has no model")
    trust = os.path.join(root, "usr/lib/edgeprov/trust.d")
    if not os.path.isdir(trust):
        problems.append("IMAGE_INSTALL: lacks edgeprov-conf, so the image has no trust anchors")
    elif is_example(trust) and _value(values, "PROVENANCE_ALLOW_EXAMPLE") != "1":
        problems.append(
            "PROVENANCE_TRUST_DIR: is still the layer's example; set your own folder, or "
            'PROVENANCE_ALLOW_EXAMPLE = "1" for a demonstration'
        )
    mount = "usr/lib/systemd/system/var-lib-edgeprov.mount"
    if not there(mount) and not there("etc/systemd/system/var-lib-edgeprov.mount"):
        problems.append("PROVENANCE_DATA_DIR: nothing mounts /var/lib/edgeprov; add edgeprov-state to IMAGE_INSTALL")
    if "read-only-rootfs" in image_features and not there(_value(values, "PROVENANCE_DATA_DIR").lstrip("/")):
        problems.append("PROVENANCE_DATA_DIR: the mount point is missing on the read-only root")
    return problems


def _value(values, name):
    value = values.get(name)
    if value is None:
        return SETTINGS[name].default
    return value.strip()
