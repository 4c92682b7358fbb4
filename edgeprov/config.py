# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration: TOML files and drop-ins into frozen values.

The main file is the first of ``/etc/edgeprov/edgeprov.toml``, ``/run/edgeprov/edgeprov.toml`` and
``/usr/lib/edgeprov/edgeprov.toml``; then ``edgeprov.toml.d/*.toml`` of all three folders, sorted by
file name, where a file of a higher folder masks one of the same name below. ``EDGEPROV_CONFIG``
names one file that replaces all of them. An unknown key is an error: a mistyped security setting
must not be silently without effect.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

from edgeprov._dataclass import dataclass, field, field_names, replace
from edgeprov.errors import ConfigError
from edgeprov.formats.names import SERIAL_RULE, is_serial, is_slot
from edgeprov.limits import LIMITS, MIB

SEARCH_PATH: Final = (Path("/etc/edgeprov"), Path("/run/edgeprov"), Path("/usr/lib/edgeprov"))
FILE_NAME: Final = "edgeprov.toml"
ENVIRONMENT: Final = "EDGEPROV_CONFIG"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """Who this device is and where its folders lie."""

    serial: str = ""
    state_dir: Path = Path("/var/lib/edgeprov")
    run_dir: Path = Path("/run/edgeprov")
    models_dir: Path = Path("/usr/share/edgeprov/models")  # read-only OCI layout baked into the image
    slots: tuple[str, ...] = ("default",)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Where kits go. ``name`` is ``host[:port]/prefix`` or ``oci:DIR``."""

    name: str = ""
    data_template: str = "data/{device}/{year}"  # rendered when a kit is sent (registry/repository_template.py)
    subject: str = "none"  # model: kits name the model as OCI subject too, where their repository holds it
    plain_http: bool = False
    credentials_file: Path | None = None  # docker's or podman's form; without it their usual places are searched
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    proxy: str = ""
    allow_hosts: tuple[str, ...] = ()  # host[:port] that the registry may redirect blobs to
    token_hosts: tuple[str, ...] = ()  # host[:port] of token servers that may get the credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordConfig:
    """How inferences are recorded."""

    sync: str = "interval"  # every | interval | seal
    interval_ms: int = 200
    full: str = "stop"  # stop | discard-oldest
    quota_bytes: int = 256 * MIB
    capture: str = "none"  # none | digest | sampled | full
    capture_rate: float = 0.01  # share of inputs kept when sampled


@dataclass(frozen=True, slots=True, kw_only=True)
class SealConfig:
    """When records become a kit, and how it is signed."""

    part_bytes: int = LIMITS.part_bytes
    max_age_s: int = 24 * 3600
    max_records: int = 1_000_000
    max_bytes: int = 64 * MIB
    min_kit_interval_s: int = 3600  # spares the TPM's flash: chips promise about 100,000 writes
    signatures: tuple[str, ...] = ("cosign", "notation")


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadConfig:
    """When and how fast kits leave the device."""

    order: str = "oldest"  # oldest | smallest
    bandwidth_bytes_per_s: int = 0  # 0: no limit
    budget_s: int = 0  # 0: until done
    metered: str = "no"  # no | yes: upload on metered links
    min_battery_percent: int = 0  # on battery power, wait below this charge
    retention: str = "confirmed"  # confirmed: free a kit once the registry confirmed it | keep
    head_s: int = 86_400  # nothing sealed for so long: leave an attested head in the next run; 0: never


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmConfig:
    """Which TPM and which PCRs. ``auto``: /dev/tpmrm0, else a private simulator (assurance dev)."""

    tcti: str = "auto"
    pcr: int = 14
    quote_pcrs: tuple[int, ...] = ()  # further PCRs in each quote, such as 0 to 7: a trust policy can ask for them
    bus_protection: bool = False
    allow_simulator: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustConfig:
    """Where the trust anchors lie, and the earliest time that a dead clock may claim."""

    dir: Path = Path("/etc/edgeprov/trust.d")
    time_floor: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """The interpreter."""

    name: str = "auto"  # auto | tflite-runtime | ai-edge-litert
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings of a device; ``origins`` tells for each ``section.key`` which file set it."""

    device: DeviceConfig = field(default_factory=DeviceConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    seal: SealConfig = field(default_factory=SealConfig)
    upload: UploadConfig = field(default_factory=UploadConfig)
    tpm: TpmConfig = field(default_factory=TpmConfig)
    trust: TrustConfig = field(default_factory=TrustConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    origins: Mapping[str, Path] = field(default_factory=dict)


_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "record.sync": ("every", "interval", "seal"),
    "record.full": ("stop", "discard-oldest"),
    "record.capture": ("none", "digest", "sampled", "full"),
    "registry.subject": ("none", "model"),
    "seal.signatures": ("cosign", "notation"),
    "upload.order": ("oldest", "smallest"),
    "upload.metered": ("no", "yes"),
    "upload.retention": ("confirmed", "keep"),
    "runtime.name": ("auto", "tflite-runtime", "ai-edge-litert"),
}

_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "record.interval_ms": (1, 3_600_000),
    "record.quota_bytes": (64 * 1024, 2**50),
    "record.capture_rate": (0.0, 1.0),
    "seal.part_bytes": (64 * 1024, LIMITS.part_max_bytes),
    "seal.max_age_s": (1, 2**31),
    "seal.max_records": (1, LIMITS.kit_records),
    "seal.max_bytes": (64 * 1024, 2**40),
    "seal.min_kit_interval_s": (0, 2**31),
    "upload.bandwidth_bytes_per_s": (0, 2**40),
    "upload.budget_s": (0, 2**31),
    "upload.min_battery_percent": (0, 100),
    "tpm.pcr": (
        8,
        15,
    ),  # locality 0 can extend these and not reset them (TCG PC Client Platform TPM Profile)
    "runtime.threads": (1, 256),
}


def load_config(environment: Mapping[str, str] | None = None, search_path: tuple[Path, ...] = SEARCH_PATH) -> Config:
    """Read the configuration; without any file the defaults hold.

    Raises:
        ConfigError: A file is unreadable or malformed, or a key, type or value is wrong; the
            message names file and key.
    """
    environment = os.environ if environment is None else environment
    config = Config()
    origins: dict[str, Path] = {}
    for path in _config_files(environment, search_path):
        config = _apply(config, _load_toml(path), path, origins)
    return replace(config, origins=origins)


def _config_files(environment: Mapping[str, str], search_path: tuple[Path, ...]) -> list[Path]:
    if single := environment.get(ENVIRONMENT):
        return [Path(single)]
    main = [folder / FILE_NAME for folder in search_path if (folder / FILE_NAME).is_file()][:1]
    drop_ins: dict[str, Path] = {}
    for folder in reversed(search_path):
        for path in sorted((folder / f"{FILE_NAME}.d").glob("*.toml")):
            drop_ins[path.name] = path
    return main + [drop_ins[name] for name in sorted(drop_ins)]


def _load_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(LIMITS.config_file_bytes + 1)
        if len(raw) > LIMITS.config_file_bytes:
            raise ConfigError(f"{path}: larger than {LIMITS.config_file_bytes} bytes")
        return tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", advice=f"Check the file, or what {ENVIRONMENT} names."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _apply(config: Config, tree: Mapping[str, Any], path: Path, origins: dict[str, Path]) -> Config:
    sections = set(field_names(Config)) - {"origins"}
    changed: dict[str, Any] = {}
    for section, table in tree.items():
        if section not in sections:
            raise ConfigError(f"{path}: unknown section [{section}]", advice=f"Known: {', '.join(sorted(sections))}.")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {section} must be a table")
        changed[section] = _apply_section(getattr(config, section), section, table, path, origins)
    return replace(config, **changed)


def _apply_section(current: Any, section: str, table: Mapping[str, Any], path: Path, origins: dict[str, Path]) -> Any:
    hints = get_type_hints(type(current))
    values: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{section}.{key}"
        if key not in hints:
            raise ConfigError(f"{path}: unknown key {name}", advice=f"Known in [{section}]: {', '.join(hints)}.")
        values[key] = _convert(name, value, hints[key], path)
        origins[name] = path
    return replace(current, **values)


def _convert(name: str, value: object, hint: Any, path: Path) -> object:
    if isinstance(hint, UnionType):
        hint = next(item for item in get_args(hint) if item is not type(None))
    converted: object
    if get_origin(hint) is tuple:
        item_type = get_args(hint)[0]
        if not isinstance(value, list) or any(type(item) is not item_type for item in value):
            raise ConfigError(f"{path}: {name} must be a list of {item_type.__name__}")
        converted = tuple(value)
    elif hint is Path and isinstance(value, str):
        converted = Path(value)
        if not converted.is_absolute():
            converted = path.parent / converted
    elif hint is float and type(value) in (int, float):
        converted = float(value)  # type: ignore[arg-type]
    elif type(value) is hint:
        converted = value
    else:
        raise ConfigError(f"{path}: {name} must be of type {getattr(hint, '__name__', hint)}")
    _verify_value(name, converted, path)
    return converted


def _verify_value(name: str, value: object, path: Path) -> None:
    if name in _CHOICES:
        for item in value if isinstance(value, tuple) else (value,):
            if item not in _CHOICES[name]:
                raise ConfigError(f"{path}: {name} = {item!r}", advice=f"Allowed: {', '.join(_CHOICES[name])}.")
    if name in _RANGES and isinstance(value, int | float):
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise ConfigError(f"{path}: {name} = {value} is outside {low:g} to {high:g}")
    if name == "device.serial" and not is_serial(str(value)):
        raise ConfigError(f"{path}: {name} must be {SERIAL_RULE}")
    if name == "device.slots":
        slots = value if isinstance(value, tuple) else ()
        if not slots or len(set(slots)) != len(slots) or not all(is_slot(slot) for slot in slots):
            raise ConfigError(f"{path}: {name} must hold different names of 1 to 32 lower-case letters, digits or -")
    if name == "tpm.quote_pcrs" and any(not 0 <= pcr <= 23 for pcr in value):  # type: ignore[attr-defined]
        raise ConfigError(f"{path}: {name} holds PCR numbers from 0 to 23")
    if name == "seal.signatures" and not value:
        raise ConfigError(f"{path}: {name} is empty; an unsigned kit proves nothing")
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ConfigError(f"{path}: {name} needs a time zone, as in 2026-01-01T00:00:00Z")
