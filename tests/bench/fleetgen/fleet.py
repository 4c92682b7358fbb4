# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Makes a whole fleet: models, device records, kits, trust folder and the truth about what was planted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from edgeprov.fleet.registries.sources import open_registry, parse_source
from edgeprov.formats.descriptor import describe
from edgeprov.formats.digest import digest_of
from edgeprov.formats.kitfile import kitfile_entries
from edgeprov.formats.manifest import Manifest
from edgeprov.formats.modelkit import build_modelkit, layer_media_type
from tests.bench.fleetgen.device import Artifact, FleetDevice
from tests.bench.fleetgen.plan import UNPUSHABLE, DevicePlan, Settings, plan_fleet
from tests.bench.fleetgen.sink import LayoutSink, RegistrySink, write_index
from tests.support.kits import encode_tar
from tests.support.world import World

MODEL_NAME = "wdbc"
HEADS = "heads"
SPLIT_ABOVE = 15_000
"""Kits in one layout folder; above it there is a folder per month of arrival (index.json has a bound)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What was made: ``registries`` are names that `sync` takes, ``truth`` is the content of truth.json."""

    folder: Path
    registries: tuple[str, ...]
    trust: Path
    truth: dict[str, Any]

    @property
    def head_options(self) -> list[str]:
        """For `audit`: what each enrolled device answered to the auditor's nonce."""
        options = ["--nonce", self.truth["nonce"]]
        for path in sorted((self.folder / HEADS).iterdir()):
            options += ["--head", str(path)]
        return options


def make_models(settings: Settings, world: World) -> list[Artifact]:
    """One model kit per version, signed by the publisher."""
    made = []
    for number in range(settings.models):
        version = f"1.{number}.0"
        kitfile: dict[str, Any] = {
            "manifestVersion": "1.0.0",
            "package": {"name": MODEL_NAME, "version": version},
            "model": {
                "name": MODEL_NAME,
                "path": "model/wdbc.tflite",
                "framework": "tflite",
                "parameters": {"securityVersion": number},
            },
        }
        weights = encode_tar({"model/wdbc.tflite": f"weights {settings.seed} {version}".encode() * 40})
        spec = kitfile_entries(kitfile)[0]
        layer = describe(weights, layer_media_type("model"))
        manifest, config = build_modelkit(kitfile, [(spec, layer, digest_of(weights))], created="2025-12-01T00:00:00Z")
        made.append(
            Artifact(
                day=0,
                repo=f"models/{MODEL_NAME}",
                tag=version,
                manifest=manifest,
                blobs={layer.digest: weights, manifest.config.digest: config},
                signatures=(world.sign_model(manifest),),
            )
        )
    return made


def make_fleet(
    folder: Path,
    settings: Settings,
    *,
    workers: int = 1,
    to: str = "",
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Fleet:
    """Write the fleet below ``folder`` as OCI layouts, or push it to the registry ``to`` in the order of arrival."""
    world = World()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HEADS).mkdir(exist_ok=True)
    make = _push_fleet if to else _write_fleet
    names, truths = make(folder, settings, world, workers, to, progress)
    truth = {
        "settings": settings.as_json(),
        "nonce": nonce_of(settings).hex(),
        "models": [
            {"digest": str(a.manifest.digest), "repo": a.repo, "tag": a.tag} for a in make_models(settings, world)
        ],
        "devices": truths,
    }
    (folder / "truth.json").write_text(json.dumps(truth, indent=1))
    return Fleet(folder=folder, registries=names, trust=write_trust(folder, world), truth=truth)


def nonce_of(settings: Settings) -> bytes:
    """What the auditor asks each device with after the last day."""
    return hashlib.sha256(f"nonce {settings.seed}".encode()).digest()[:16]


def _write_fleet(
    folder: Path,
    settings: Settings,
    world: World,
    workers: int,
    _to: str,
    progress: Callable[[int, int], None],
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    plans = plan_fleet(settings)
    split = settings.devices * settings.days > SPLIT_ABOVE
    entries: dict[str, list[dict[str, Any]]] = {}
    first = _place(settings, split, 0)
    sink = LayoutSink(folder / first)
    for artifact in make_models(settings, world):
        sink.put(artifact)
    entries[first] = sink.entries
    truths = []
    for done, (truth, made) in enumerate(_run(folder, settings, plans, split, workers), 1):
        truths.append(truth)
        for name, items in made.items():
            entries.setdefault(name, []).extend(items)
        progress(done, len(plans))
    for name, items in entries.items():
        write_index(folder / name, items)
    return tuple(f"oci:{folder / name}" for name in sorted(entries)), truths


def _push_fleet(
    folder: Path,
    settings: Settings,
    world: World,
    _workers: int,
    to: str,
    progress: Callable[[int, int], None],
) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    source = parse_source(to)
    sink = RegistrySink(open_registry(source, create=True), source.prefix)
    models = make_models(settings, world)
    for artifact in models:
        sink.put(artifact)
    devices = [
        FleetDevice(settings, plan, world, [a.manifest for a in models])
        for plan in plan_fleet(settings, without=UNPUSHABLE)
    ]
    made = [sorted(device.artifacts(), key=lambda artifact: artifact.day) for device in devices]
    for device in devices:
        _save_head(folder, settings, device)
    # Each device is the only writer of its series: several at once, as in a fleet.
    with ThreadPoolExecutor(4) as pool:
        for done, _ in enumerate(pool.map(lambda artifacts: [sink.put(a) for a in artifacts], made), 1):
            progress(done, len(devices))
    return (source.name,), [asdict(device.truth) for device in devices]


def _save_head(folder: Path, settings: Settings, device: FleetDevice) -> None:
    if device.plan.enrolled:
        (folder / HEADS / f"{device.plan.serial}.json").write_bytes(device.head(nonce_of(settings)))


def write_trust(folder: Path, world: World) -> Path:
    trust = folder / "trust.d"
    trust.mkdir(exist_ok=True)
    for name, data in world.policy_files.items():
        (trust / name).write_bytes(data)
    return trust


def _run(
    folder: Path, settings: Settings, plans: list[DevicePlan], split: bool, workers: int
) -> Iterator[tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]]:
    jobs = [(folder, settings, plan, split) for plan in plans]
    if workers == 1:
        yield from map(_make_device, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_make_device, jobs)


_shared: dict[Settings, tuple[World, list[Manifest]]] = {}


def _make_device(
    job: tuple[Path, Settings, DevicePlan, bool],
) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    folder, settings, plan, split = job
    if settings not in _shared:
        world = World()
        _shared[settings] = (world, [artifact.manifest for artifact in make_models(settings, world)])
    world, models = _shared[settings]
    device = FleetDevice(settings, plan, world, models)
    sinks: dict[str, LayoutSink] = {}
    for artifact in device.artifacts():
        name = _place(settings, split, artifact.day)
        sinks.setdefault(name, LayoutSink(folder / name)).put(artifact)
    _save_head(folder, settings, device)
    return asdict(device.truth), {name: sink.entries for name, sink in sinks.items()}


def _place(settings: Settings, split: bool, day: int) -> str:
    if not split:
        return "registry"
    at = datetime.fromtimestamp(settings.start_ns // 10**9, UTC) + timedelta(days=min(day, settings.days))
    return f"registry-{at:%Y-%m}"
