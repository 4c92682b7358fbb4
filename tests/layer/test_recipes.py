# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Recipes against what they describe: versions and checksums, imports, installed files, and the layer's form.

BitBake is in no package index, so CI reads the recipes as text; parsing them with the real BitBake and
running the class's tasks is done before each release, for both series.
"""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from oeprov import settings

from edgeprov.formats.names import FILLERS, is_filler, is_serial

ROOT = Path(__file__).parents[2]
LAYER = ROOT / "meta-provenance"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EDGEPROV = LAYER / f"recipes-provenance/edgeprov/python3-edgeprov_{PROJECT['version']}.bb"
RECIPES = sorted(LAYER.rglob("*.bb"))
HEX = re.compile(r"[0-9a-f]{64}")

# Which package of the split standard library a module is in; what is not listed is in python3-core.
# From python3-manifest.json of both series, for the modules that edgeprov may come to use.
SPLIT = {
    "asyncio": "asyncio", "concurrent": "asyncio", "base64": "netclient", "calendar": "datetime", "ctypes": "ctypes",
    "curses": "curses", "datetime": "datetime", "decimal": "numbers", "difflib": "difflib", "email": "email",
    "fcntl": "fcntl", "fractions": "numbers", "getpass": "unixadmin", "gzip": "compression", "hashlib": "crypt",
    "hmac": "netclient", "html": "html", "http": "netclient", "json": "json", "logging": "logging",
    "mimetypes": "netclient", "mmap": "mmap", "multiprocessing": "multiprocessing", "numbers": "numbers",
    "pickle": "pickle", "pprint": "pprint", "queue": "threading", "random": "math", "resource": "resource",
    "secrets": "netclient", "shlex": "shell", "socket": "io", "socketserver": "netserver", "sqlite3": "sqlite3",
    "ssl": "io", "statistics": "statistics", "syslog": "syslog", "tarfile": "compression", "tempfile": "io",
    "tomllib": "tomllib", "unittest": "unittest", "urllib": "netclient", "uuid": "netclient", "venv": "venv",
    "xml": "xml", "zoneinfo": "zoneinfo",
}  # fmt: skip
THIRD_PARTY = {
    "cryptography": "python3-cryptography", "msgpack": "python3-msgpack", "zstandard": "python3-zstandard",
    "oras": "python3-oras", "requests": "python3-requests", "tpm2_pytss": "python3-tpm2-pytss",
    "yaml": "python3-pyyaml", "urllib3": "python3-urllib3",
}  # fmt: skip
# PROVENANCE_RUNTIME brings the interpreter and numpy with it; tables and clusters are not for an image.
CHOSEN_ELSEWHERE = {
    "numpy",
    "tflite_runtime",
    "ai_edge_litert",
    "pyarrow",
    "ray",
    "uvicorn",
    "starlette",
    "duckdb",
    "fsspec",
}


def variables(path: Path) -> dict[str, str]:
    """Assignments of a recipe, line continuations joined; ``+=`` and ``:append`` add up."""
    text = path.read_text().replace("\\\n", " ")
    found: dict[str, str] = {}
    for name, how, value in re.findall(r'^([A-Za-z0-9_:${}\-\[\].]+) (\?=|:=|\+=|=) "(.*)"$', text, re.MULTILINE):
        found[name] = f"{found[name]} {value}" if how == "+=" and name in found else value
    return found


def packaged_as_fleet(path: Path) -> bool:
    parts = path.relative_to(ROOT / "edgeprov").parts
    return parts[0] == "fleet" or parts[:2] == ("cli", "fleet") or parts == ("cli", "fleet_main.py")


def imports(paths: list[Path]) -> set[str]:
    """Top-level names that are imported at run time anywhere in these files, lazily or not."""
    names: set[str] = set()
    for path in paths:
        tree = ast.parse(path.read_text())
        checking = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if id(node) in checking:
                continue
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.split(".")[0])
    return names - {"edgeprov", "__future__"}


def needed(names: set[str]) -> set[str]:
    packages = {"python3-core"}
    for name in names - CHOSEN_ELSEWHERE:
        if name in THIRD_PARTY:
            packages.add(THIRD_PARTY[name])
        elif name in SPLIT:
            packages.add(f"python3-{SPLIT[name]}")
        else:
            assert name in sys.stdlib_module_names, f"{name}: which package is it in?"
    return packages


def test_the_split_library_table_names_modules_that_exist() -> None:
    assert set(SPLIT) <= set(sys.stdlib_module_names)


def test_the_device_package_names_what_it_imports() -> None:
    found = variables(EDGEPROV)
    listed = set(f"{found['RDEPENDS:${PN}']} {found['RDEPENDS:${PN}:append:class-target']}".split())
    files = [path for path in (ROOT / "edgeprov").rglob("*.py") if not packaged_as_fleet(path)]
    assert needed(imports(files)) - listed == set()
    # What tpm2-pytss and oras import or load themselves without saying so (its recipes name too little).
    unsaid = {
        "libtss2", "libtss2-mu", "libtss2-tcti-device", "python3-asn1crypto", "python3-cffi", "python3-packaging",
        "python3-logging", "python3-compression", "python3-email", "python3-datetime", "python3-mmap", "python3-shell",
    }  # fmt: skip
    assert listed - needed(imports(files)) <= unsaid, "nothing is installed that nobody imports"


def test_the_fleet_package_names_what_it_imports_beyond_the_devices() -> None:
    found = variables(EDGEPROV)
    device = set(f"{found['RDEPENDS:${PN}']} {found['RDEPENDS:${PN}:append:class-target']}".split())
    listed = set(found["RDEPENDS:${PN}-fleet"].split())
    assert "python3-edgeprov" in listed
    files = [path for path in (ROOT / "edgeprov").rglob("*.py") if packaged_as_fleet(path)]
    assert needed(imports(files)) - listed - device == set()


def test_the_native_variant_names_what_baking_imports() -> None:
    program = "import sys, oeprov.bake; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{LAYER / 'lib'}:{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = {THIRD_PARTY[name] for name in run.stdout.split() if name in THIRD_PARTY} - {"python3-zstandard"}
    assert loaded <= set(variables(EDGEPROV)["RDEPENDS:${PN}"].split())


def test_the_recipe_has_the_projects_version_licence_and_dependencies() -> None:
    text = EDGEPROV.read_text()
    assert 'LICENSE = "Apache-2.0"' in text
    md5 = hashlib.md5((ROOT / "LICENSE").read_bytes(), usedforsecurity=False).hexdigest()
    assert f"file://LICENSE;md5={md5}" in text
    found = variables(EDGEPROV)
    listed = f"{found['RDEPENDS:${PN}']} {found['RDEPENDS:${PN}:append:class-target']}"
    for requirement in PROJECT["dependencies"]:
        name = re.split(r"[<>=; ]", requirement)[0].lower()
        assert f"python3-{name}" in listed.split()


def locked(name: str) -> tuple[str, set[str]]:
    """Version and hashes of a package in the lock files: the package index's own metadata."""
    for lock in ("requirements-device.lock", "requirements-fleet.lock"):
        found = re.search(
            rf"^{re.escape(name)}==(\S+) \\\n((?:    --hash=sha256:\S+(?: \\)?\n)+)",
            (ROOT / lock).read_text(),
            re.MULTILINE,
        )
        if found:
            return found[1], set(HEX.findall(found[2]))
    raise AssertionError(f"{name} is in no lock file")


def layer_lock() -> dict[str, tuple[str, set[str]]]:
    text = (Path(__file__).parent / "requirements-layer.lock").read_text()
    found = re.findall(r"^([a-z0-9-]+)==(\S+) \\\n((?:    --hash=sha256:\S+(?: \\)?\n)+)", text, re.MULTILINE)
    return {name: (version, set(HEX.findall(hashes))) for name, version, hashes in found}


def test_sources_have_the_versions_and_checksums_of_the_package_index() -> None:
    extra = layer_lock()
    for path in RECIPES:
        text = path.read_text()
        if "inherit pypi" not in text:
            continue
        name, version = re.fullmatch(r"python3-(.+)_(.+)\.bb", path.name).groups()  # type: ignore[union-attr]
        wanted, hashes = extra.get(name) or locked(name)
        assert version == wanted, path.name
        sums = re.findall(r'SRC_URI\[(?:[a-z0-9_-]+\.)?sha256sum\] = "([0-9a-f]{64})"', text)
        assert sums, path.name
        assert set(sums) <= hashes, path.name
    for name, (version, _) in extra.items():
        assert list(LAYER.rglob(f"python3-{name}_{version}.bb")), f"{name} {version} has no recipe"


def test_the_wheels_are_those_of_the_images_pythons() -> None:
    text = next(LAYER.rglob("python3-ai-edge-litert_*.bb")).read_text()
    tags = set(re.findall(r"SRC_URI\[(cp\d+)-(aarch64|x86_64)\.sha256sum\]", text))
    # scarthgap has Python 3.12, wrynose 3.14.
    assert tags == {(tag, machine) for tag in ("cp312", "cp314") for machine in ("aarch64", "x86_64")}


def test_no_address_of_a_package_index_is_in_the_layer() -> None:
    host = "python" + "hosted"
    for path in LAYER.rglob("*"):
        if path.is_file() and not {"example-kit", "__pycache__"} & set(path.parts):
            assert host not in path.read_text(), path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as the recipe installs it: a wheel by the build back end, and what do_install adds."""
    work = tmp_path_factory.mktemp("install")
    source = work / "source"
    source.mkdir()
    for name in re.findall(r"file://([A-Za-z.]+);subdir=", EDGEPROV.read_text()):
        origin = ROOT / name
        if origin.is_dir():
            shutil.copytree(origin, source / name, ignore=shutil.ignore_patterns("__pycache__", ".mypy_cache"))
        else:
            shutil.copy(origin, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-w", str(work), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    wheel = next(work.glob("*.whl"))
    root = work / "image"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", "--ignore-installed", "--root", str(root), "--prefix", "/usr", str(wheel)],
        check=True, capture_output=True,
    )  # fmt: skip
    script = EDGEPROV.read_text().split("do_install:append:class-target() {\n")[1].split("\n}\n")[0]
    for name, value in expansions(root, source).items():
        script = script.replace("${" + name + "}", value)
    subprocess.run(["sh", "-euc", script], check=True, capture_output=True)
    return root


def expansions(root: Path, source: Path) -> dict[str, str]:
    site = next(root.rglob("edgeprov/py.typed")).parents[1].relative_to(root)
    return {
        "PYTHON": sys.executable, "PROVENANCE_LAYERDIR": str(LAYER), "PYTHON_SITEPACKAGES_DIR": f"/{site}",
        "D": str(root), "S": str(source), "systemd_system_unitdir": "/usr/lib/systemd/system",
        "nonarch_libdir": "/usr/lib", "nonarch_base_libdir": "/usr/lib", "includedir": "/usr/include",
    }  # fmt: skip


def package_of(path: str) -> str | None:
    """Which package a file lands in, in the order of PACKAGES; None: in none, which is an error in BitBake."""
    found = variables(EDGEPROV)
    site = sysconfig.get_path("purelib", vars={"base": "/usr", "platbase": "/usr"}, scheme="posix_prefix")
    words = {
        "bindir": "/usr/bin", "PYTHON_SITEPACKAGES_DIR": site, "systemd_system_unitdir": "/usr/lib/systemd/system",
        "nonarch_libdir": "/usr/lib", "nonarch_base_libdir": "/usr/lib",
    }  # fmt: skip
    order = ("${PN}-fleet", "edgeprov-network-hook", "edgeprov-update-guard", "edgeprov-services")
    assert found["PACKAGES"] if "PACKAGES" in found else 'PACKAGES =+ "${PN}-fleet' in EDGEPROV.read_text()
    for package in re.search(r'^PACKAGES =\+ "(.*)"$', EDGEPROV.read_text(), re.MULTILINE)[1].split():  # type: ignore[index]
        assert package in order
        for pattern in found[f"FILES:{package}"].split():
            for name, value in words.items():
                pattern = pattern.replace("${" + name + "}", value)
            if path == pattern or path.startswith(pattern + "/"):
                return package
    # oe-core's default FILES of the development package and the main one.
    if path.startswith("/usr/include/"):
        return "${PN}-dev"
    return "${PN}" if path.startswith(("/usr/bin/", site + "/")) else None


def test_every_installed_file_is_in_a_package_and_in_the_right_one(installed: Path) -> None:
    where: dict[str, str | None] = {}
    for path in installed.rglob("*"):
        if path.is_file() or path.is_symlink():
            name = "/" + str(path.relative_to(installed))
            where[name.replace("/usr/local/", "/usr/")] = package_of(name.replace("/usr/local/", "/usr/"))
    assert [name for name, package in where.items() if package is None] == []
    assert where["/usr/bin/edgeprov"] == "${PN}"
    assert where["/usr/bin/edgeprov-fleet"] == "${PN}-fleet"
    assert where["/usr/lib/systemd/system/edgeprov-boot-check.service"] == "edgeprov-services"
    guard = "/usr/lib/systemd/system/boot-complete.target.requires/edgeprov-boot-check.service"
    assert where[guard] == "edgeprov-update-guard"
    fleet = {name for name, package in where.items() if package == "${PN}-fleet" and name.endswith(".py")}
    assert len(fleet) == len(list((ROOT / "edgeprov").rglob("*.py")))
    device = {name for name, package in where.items() if package == "${PN}" and ".dist-info/" not in name}
    assert {name.rpartition("/")[2] for name in device} == {"edgeprov", "edgeprov.pyc"}


def test_every_system_file_of_edgeprov_is_installed_where_systemd_looks(installed: Path) -> None:
    placed = {
        path.read_bytes()
        for folder in ("usr/lib", "usr/include")
        for path in (installed / folder).rglob("*")
        if path.is_file() and "site-packages" not in path.parts
    }
    for path in (ROOT / "edgeprov/data").iterdir():
        if path.is_file() and path.suffix != ".md":
            assert path.read_bytes() in placed, path.name
    assert (installed / "usr/lib/systemd/system/boot-complete.target.requires/edgeprov-boot-check.service").exists()


def test_the_device_runs_without_the_fleet_package(installed: Path, tmp_path: Path) -> None:
    (packed,) = installed.rglob("edgeprov.pyc")
    shutil.copy(packed, tmp_path)  # away from the folder of the fleet's package, which goes before it
    environment = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for verb in ([], ["boot-check"], ["status"], ["seal"], ["upload"], ["model"], ["identity"], ["export"], ["doctor"]):
        run = subprocess.run(
            [sys.executable, "-m", "edgeprov.cli.device_main", *verb, "--help"],
            env=environment,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert run.returncode == 0, (verb, run.stderr)
        assert verb == [] or "--json" not in run.stdout.split("\n\n")[1], "the verb says what it does"


def test_units_that_the_recipe_enables_exist_and_can_be_enabled() -> None:
    text = EDGEPROV.read_text().replace("\\\n", " ")
    enabled = re.search(r'^SYSTEMD_SERVICE:edgeprov-services = "(.*)"$', text, re.MULTILINE)[1].split()  # type: ignore[index]
    for name in enabled:
        assert "[Install]" in (ROOT / "edgeprov/data" / name).read_text(), name
    startable = {
        path.name
        for path in (ROOT / "edgeprov/data").iterdir()
        if path.suffix in {".service", ".socket", ".timer", ".path", ".target"} and "[Install]" in path.read_text()
    }
    assert startable - set(enabled) == {
        "edgeprov-record@.service",  # instances are the vendor's choice
        "edgeprov.service",
        "edgeprov.socket",  # and so is the service that all applications share
    }


def test_the_user_of_the_recipe_is_the_user_of_the_units() -> None:
    found = variables(EDGEPROV)
    assert found["USERADD_PARAM:edgeprov-services"].endswith("--gid edgeprov --groups tss edgeprov")
    assert "--system tss" in found["GROUPADD_PARAM:edgeprov-services"]
    for path in (ROOT / "edgeprov/data").glob("*.service"):
        assert "User=edgeprov" in path.read_text().splitlines(), path.name


def test_the_layer_says_what_the_layer_check_and_the_index_want_to_read() -> None:
    text = (LAYER / "README.md").read_text()
    assert "maintainer" in text.lower()
    assert "patch" in text.lower()
    assert re.search(r"[\w.]+@[\w.]+\.\w+", text)
    assert "README" not in text, "the layer check would then look for another one and skip its tests"
    assert (LAYER / "SECURITY.md").stat().st_size > 0
    assert "Permission is hereby granted" in (LAYER / "COPYING.MIT").read_text()
    conf = (LAYER / "conf/layer.conf").read_text()
    assert 'LAYERSERIES_COMPAT_provenance = "scarthgap wrynose"' in conf
    assert "meta-tensorflow-lite" not in re.search(r"^LAYERDEPENDS_provenance = (.*)$", conf, re.MULTILINE)[1]  # type: ignore[index]


def test_every_file_of_the_layer_has_the_two_line_header() -> None:
    for path in LAYER.rglob("*"):
        relative = path.relative_to(LAYER).parts
        if (
            not path.is_file()
            or "example-kit" in relative
            or path.suffix in {".md", ".MIT", ".pem", ".cfg", ".pyc"}
            or path.name == "EXAMPLE"
        ):
            continue
        if path.name.endswith(".bbappend"):
            continue  # two lines that say why they change nothing
        lines = path.read_text().splitlines()
        start = 1 if lines[0].startswith("#!") else 0
        assert lines[start] == "# SPDX-FileCopyrightText: The edgeprov authors", path
        assert lines[start + 1] == "# SPDX-License-Identifier: MIT", path


def test_no_recipe_may_use_the_network_in_a_task_and_no_append_is_unconditional() -> None:
    for path in [*LAYER.rglob("*.bb"), *LAYER.rglob("*.bbclass"), *LAYER.rglob("*.inc")]:
        assert "[network]" not in path.read_text(), path
    for path in LAYER.rglob("*.bbappend"):
        code = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        assert len(code) == 1, path
        assert code[0].startswith("require ${@bb.utils.contains('DISTRO_FEATURES', 'provenance',"), path


def test_runtimes_are_recipes_of_this_layer_or_of_a_recommended_one() -> None:
    for name, package in settings.RUNTIMES.items():
        assert package == "" or package == "python3-tensorflow-lite" or list(LAYER.rglob(f"{package}_*.bb")), name


@pytest.mark.parametrize(
    ("source", "files", "serial"),
    [
        ("dmi", {"sys/class/dmi/id/product_serial": "ABC-123\n"}, "ABC-123"),
        ("devicetree", {"proc/device-tree/serial-number": "100000003d1d1c36\0"}, "100000003d1d1c36"),
        ("auto", {"sys/class/dmi/id/product_serial": "Default string\n", "etc/machine-id": "0123abcd\n"}, None),
        ("machine-id", {"etc/machine-id": "0123abcd\n"}, "0123abcd"),
        ("auto", {"proc/device-tree/serial-number": "00000000\0", "sys/class/dmi/id/product_serial": "A7\n"}, "A7"),
        ("auto", {"proc/device-tree/serial-number": "A/7\0", "sys/class/dmi/id/product_serial": "A7\n"}, None),
        ("dmi", {"sys/class/dmi/id/product_serial": "AB 12"}, None),
        ("dmi", {"sys/class/dmi/id/product_serial": "-AB12"}, None),
        ("dmi", {"sys/class/dmi/id/product_serial": "Gerät7"}, None),
        ("file:/data/serial", {"data/serial": " unit_7 \n"}, "unit_7"),
        ("dmi", {"sys/class/dmi/id/product_serial": 'x"\nserial = "y'}, None),
        ("dmi", {"sys/class/dmi/id/product_serial": "a.b"}, None),
        ("dmi", {"sys/class/dmi/id/product_serial": "x" * 49}, None),
        ("dmi", {}, None),
        ("mac", {}, None),
    ],
)
def test_the_serial_number_is_taken_over_or_nothing_is(
    source: str, files: dict[str, str], serial: str | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = LAYER / "recipes-provenance/edgeprov/edgeprov-conf/edgeprov-serial.sh"
    run = subprocess.run(
        ["sh", str(script), source],
        env={"SERIAL_ROOT": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    written = tmp_path / "run/edgeprov/edgeprov.toml.d/10-serial.toml"
    if serial is None:
        assert (run.returncode, written.exists()) == (1, False)
        assert run.stderr.count("\n") == 1
    else:
        assert run.returncode == 0, run.stderr
        assert tomllib.loads(written.read_text()) == {"device": {"serial": serial}}


FILLED = (
    "To be filled by O.E.M.", "To Be Filled By O.E.M.", "Default string", "System Serial Number", "Not Specified",
    "Not-Specified", "Not Applicable", "None", "N/A", "NA", "INVALID", "Unknown", "OEM", "0", "00000000", "xxxxxxxxxxx", "XXXX",
    "0123456789", "123456789", "1234567890", "................", "-", " ", "",
)  # fmt: skip


def test_the_script_and_the_product_refuse_the_same_serial_numbers(tmp_path: Path) -> None:
    """One grammar and one list of fillers, in two languages."""
    script = LAYER / "recipes-provenance/edgeprov/edgeprov-conf/edgeprov-serial.sh"
    source = tmp_path / "sys/class/dmi/id/product_serial"
    source.parent.mkdir(parents=True)
    assert [text for text in FILLED if not is_filler(text)] == []
    good = (
        "0",
        "7",
        "ab",
        "A7",
        "nonesuch",
        "SN-0001",
        "oem7",
        "a_b",
        "_a",
        "-a",
        "a.b",
        "A" * 47 + "b",
        "A" * 48 + "b",
        "a b",
        "ä7",
    )
    for text in (*FILLERS, *FILLED, *good):
        source.write_text(text + "\n")
        run = subprocess.run(
            ["sh", str(script), "dmi"], env={"SERIAL_ROOT": str(tmp_path), "PATH": "/usr/bin:/bin"}, capture_output=True
        )
        assert run.returncode == (0 if is_serial(text) and not is_filler(text) else 1), (text, run.stderr)


def test_the_layers_own_units_are_taken_by_systemd_and_confined(tmp_path: Path) -> None:
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    system = next(path for path in (Path("/usr/lib/systemd/system"), Path("/lib/systemd/system")) if path.is_dir())
    for target in (*system.glob("*.target"), *(ROOT / "edgeprov/data").glob("*.*")):
        if target.suffix in {".target", ".service"} and not target.is_symlink():
            (units / target.name).write_bytes(target.read_bytes())
    for program in (
        "usr/bin/edgeprov",
        "usr/libexec/edgeprov/serial",
        "usr/bin/fw_setenv",
        "usr/bin/fw_printenv",
        "bin/sh",
    ):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    words = {
        "@LIBEXECDIR@": "/usr/libexec", "@SOURCE@": "auto", "@BINDIR@": "/usr/bin", "@DATA_DIR@": "/data",
        "@STATE_DIR@": "/var/lib/edgeprov",
    }  # fmt: skip
    names = []
    for path in LAYER.rglob("*.in"):
        if path.suffixes[-2] == ".wks":
            continue
        text = path.read_text()
        for word, value in words.items():
            text = text.replace(word, value)
        assert "@" not in text.replace("SystemCallFilter=@system-service", "").replace("~@privileged @resources", ""), (
            path
        )
        names.append(path.name.removesuffix(".in"))
        (units / names[-1]).write_text(text)
    assert len(names) == 3
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *names], capture_output=True, text=True
    )
    assert (run.returncode, [line for line in run.stderr.splitlines() if "edgeprov" in line]) == (0, [])
    for name in names:
        if name.endswith(".service"):
            secure = subprocess.run(
                ["systemd-analyze", "security", "--offline=yes", "--threshold=30", str(units / name)],
                capture_output=True,
                text=True,
            )
            assert secure.returncode == 0, secure.stdout[-300:]
