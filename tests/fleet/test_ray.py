# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Verify and collect on a real Ray cluster of two nodes that are killed meanwhile, from a real registry to S3.

What comes out is compared with the local engine byte by byte.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.raycluster import Cluster, ray_cluster
from tests.support.readers import readers_python
from tests.support.registries import docker_registry
from tests.support.s3 import Bucket, s3_bucket

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
FLEET = ("--devices", "6", "--days", "40", "--records", "20", "--seed", "5")
SILENT = """
import socket, time
listener = socket.create_server(("127.0.0.1", 10009))
print("listening", flush=True)
time.sleep(600)
"""


@dataclass
class Site:
    """A cluster, a registry that holds a fleet with planted faults, an index of it, and an S3 server."""

    root: Path
    cluster: Cluster
    registry: str
    bucket: Bucket

    @property
    def trust(self) -> Path:
        return self.root / "made" / "trust.d"

    def local(self, verb: str, *argv: object) -> subprocess.CompletedProcess[str]:
        """With the local engine, and the same pyarrow as on the cluster."""
        program = [readers_python(), "-m", "edgeprov.cli.fleet_main", verb, *argv]
        return self.cluster.space.run(program, self.cluster.environment)

    def index(self, name: str) -> list[object]:
        """A copy of the fresh index, as options."""
        shutil.copytree(self.root / "index", self.root / name)
        return ["--fleet", self.root / name, "--trust", self.trust]

    def verdicts(self, index: list[object]) -> str:
        run = self.local("query", *index, "--limit", "100000", "--csv")
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("refused") > 5
        return run.stdout


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("ray")
    with (
        ray_cluster() as cluster,
        docker_registry(root / "server", program="registry", enter=cluster.space.enter) as host,
        s3_bucket(cluster.environment, cluster.space.enter) as bucket,
    ):
        cluster.environment.update(bucket.environment)
        name = f"{host}/fleet"
        made = cluster.space.run(
            [sys.executable, "-m", "tests.bench.fleetgen", root / "made", *FLEET, "--to", name], cluster.environment
        )
        assert made.returncode == 0, made.stderr
        cluster.start()
        site = Site(root, cluster, name, bucket)
        assert site.local("sync", name, "--fleet", root / "index").returncode == 0
        with subprocess.Popen(
            [*cluster.space.enter, sys.executable, "-c", SILENT], stdout=subprocess.PIPE, text=True
        ) as silent:
            assert silent.stdout is not None
            assert silent.stdout.readline() == "listening\n"
            yield site
            silent.kill()


@pytest.fixture(scope="module")
def alone(site: Site) -> tuple[str, dict[str, bytes]]:
    """Verdicts and data set of the local engine."""
    index = site.index("local")
    assert site.local("verify", *index, "--workers", "1").returncode == 10
    run = site.local("collect", *index, "--workers", "1", "-o", site.root / "local-data")
    assert run.returncode == 0, run.stderr
    files = files_of(site.root / "local-data")
    assert sum(name.endswith(".parquet") for name in files) > 10
    return site.verdicts(index), files


def test_only_loopback_is_there(site):
    shown = site.cluster.space.run(["ip", "-brief", "address"], site.cluster.environment)
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["lo"]
    assert site.cluster.address.startswith("127.0.0.1:")


def test_the_same_comes_out_though_workers_die(site, alone):
    index = site.index("ray")
    site.cluster.killed.clear()
    with site.cluster.hunting(site.cluster.workers(2)):
        run = site.cluster.fleet("verify", *index)
    assert run.returncode == 10, run.stdout + run.stderr
    assert len(site.cluster.killed) == 2
    with site.cluster.hunting(site.cluster.workers(1)):
        run = site.cluster.fleet("collect", *index, "-o", "s3://data/set")
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(site.cluster.killed) == 3
    assert (site.verdicts(index), site.bucket.files("set", site.root / "ray-data")) == alone


def test_the_same_comes_out_though_a_whole_node_dies(site, alone):
    index = site.index("node")
    before = len(site.cluster.killed)
    with site.cluster.hunting(site.cluster.node):
        run = site.cluster.fleet("collect", *index, "-o", site.root / "node-data")
    assert run.returncode == 0, run.stdout + run.stderr
    assert len(site.cluster.killed) == before + 1
    assert (site.verdicts(index), files_of(site.root / "node-data")) == alone


@pytest.mark.parametrize(
    ("address", "code", "says"),
    [
        ("127.0.0.1:9", 60, "no Ray cluster at 127.0.0.1:9: Connection refused"),
        ("127.0.0.1:10009", 60, "no Ray cluster at 127.0.0.1:10009: no answer within 5 s"),
        ("ray://127.0.0.1:9", 60, "no Ray cluster at ray://127.0.0.1:9: Connection refused"),
        ("REGISTRY", 60, "what listens there is not Ray"),
        ("", 60, "no Ray cluster on this machine"),
        ("127.0.0.1", 2, "is no address of a Ray cluster"),
        ("http://127.0.0.1:80/x", 2, "is no address of a Ray cluster"),
    ],
)
def test_no_cluster_is_told_in_one_line(site, address, code, says):
    address = address.replace("REGISTRY", site.registry.partition("/")[0])
    changes = {"RAY_TMPDIR": str(site.root)} if not address else {}
    index = ["--fleet", site.root / "index", "--trust", site.trust]
    run = site.cluster.fleet("verify", *index, address=address, **changes)
    check_error(run, code, says)


@pytest.mark.parametrize(
    ("before", "says"),
    [
        ("import ray; ray.__version__ = '2.1.0'", "is of another version"),
        ("import edgeprov; edgeprov.__version__ = '9.9'", "of the Ray cluster has edgeprov"),
    ],
)
def test_another_version_is_told_in_one_line(site, before, says):
    index = ["--fleet", site.root / "index", "--trust", site.trust]
    check_error(site.cluster.fleet("verify", *index, before=before), 60, says)


def check_error(run: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    assert run.returncode == code, run.stdout + run.stderr
    assert says in run.stderr
    assert "Traceback" not in run.stderr
    assert len(run.stderr.splitlines()) <= 2, run.stderr
