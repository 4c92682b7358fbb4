# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""oelint-adv and the kas schema find nothing; what is suppressed has its reason in meta-provenance/.oelint.cfg."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from oeprov import settings

LAYER = Path(__file__).parents[2] / "meta-provenance"
FILES = sorted(
    str(path.relative_to(LAYER))
    for pattern in ("*.bb", "*.bbappend", "*.bbclass", "*.inc", "*.conf")
    for path in LAYER.rglob(pattern)
    if "files" not in path.relative_to(LAYER).parts
)
KAS = sorted((LAYER / "kas").glob("*.yml"))


def lint(release: str, files: list[str], folder: Path, tmp_path: Path) -> tuple[int, str]:
    names = tmp_path / "names.json"
    names.write_text(json.dumps({"variables": {"known": sorted([*settings.SETTINGS, *settings.OTHERS])}}))
    program = Path(sys.executable).with_name("oelint-adv")
    run = subprocess.run(
        [
            str(program), "--quiet", "--release", release, "--extra-layer", "meta-python", f"--constantmods=+{names}",
            "--hide", "info", *files,
        ],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    return run.returncode, (run.stdout + run.stderr).strip()


@pytest.mark.slow
@pytest.mark.parametrize("release", ["wrynose", "scarthgap"])
def test_the_layer_has_no_finding(release: str, tmp_path: Path) -> None:
    assert len(FILES) >= 15
    assert lint(release, FILES, LAYER, tmp_path) == (0, "")


@pytest.mark.slow
def test_the_linter_would_see_a_fault(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong_1.0.bb"
    wrong.write_text('SUMMARY = "x"\nLICENSE = "MIT"\nPROVENANCE_REGISTY = "x"\n')
    code, output = lint("wrynose", [str(wrong)], LAYER, tmp_path)
    assert code != 0
    assert "DESCRIPTION" in output
    assert "PROVENANCE_REGISTY" in output


def test_every_suppression_has_a_reason() -> None:
    text = (LAYER / ".oelint.cfg").read_text()
    reasons, _, listed = text.partition("[oelint]")
    for name in listed.split("=")[1].split():
        assert f"# {name} " in reasons
    for name in FILES:
        lines = (LAYER / name).read_text().splitlines()
        for number, line in enumerate(lines):
            if line.startswith("# nooelint"):
                assert lines[number - 1].startswith("#"), f"{name}:{number + 1} says not why"


@pytest.mark.parametrize("path", KAS, ids=lambda path: path.name)
def test_kas_takes_the_file(path: Path) -> None:
    import kas

    schema = json.loads((Path(kas.__file__).parent / "schema-kas.json").read_text())
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


def test_every_layer_is_pinned_to_a_commit() -> None:
    for path in KAS:
        for name, repo in yaml.safe_load(path.read_text()).get("repos", {}).items():
            if name != "edgeprov":
                assert len(repo["commit"]) == 40, f"{path.name}: {name}"


def test_kas_sets_only_variables_that_the_layer_knows() -> None:
    known = set(settings.SETTINGS) | set(settings.OTHERS)
    for path in KAS:
        for text in yaml.safe_load(path.read_text()).get("local_conf_header", {}).values():
            for line in text.splitlines():
                if line.startswith("PROVENANCE_"):
                    assert line.split()[0].split(":")[0] in known


def test_kas_puts_the_machine_over_the_common_part(tmp_path: Path) -> None:
    """kas itself resolves includes; repositories are replaced by folders, since nothing may be cloned here."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for path in KAS:
        tree = yaml.safe_load(path.read_text())
        for name, repo in tree.get("repos", {}).items():
            if name != "edgeprov":
                (tmp_path / "repo" / name).mkdir(parents=True, exist_ok=True)
                for key in ("url", "branch", "commit"):
                    repo.pop(key, None)
                repo["path"] = f"repo/{name}"
        (tmp_path / path.name).write_text(yaml.safe_dump(tree))
    for machine in ("qemux86-64", "qemuarm64", "raspberrypi4-64-spi-tpm"):
        run = subprocess.run(
            [str(Path(sys.executable).with_name("kas")), "dump", f"{machine}.yml"],
            cwd=tmp_path, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        dumped = yaml.safe_load(run.stdout)
        assert dumped["machine"] == machine.removesuffix("-spi-tpm")
        assert dumped["target"] == "provenance-image-demo"
        assert 'INIT_MANAGER = "systemd"' in dumped["local_conf_header"]["provenance"]
