# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration: precedence, drop-ins, and every way in which a file can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeprov.config import Config, load_config
from edgeprov.errors import ConfigError


def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    made = tuple(tmp_path / name for name in ("etc", "run", "lib"))
    for folder in made:
        (folder / "edgeprov.toml.d").mkdir(parents=True)
    return made


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    config = load_config({}, folders(tmp_path))
    assert config == Config()
    assert config.seal.signatures == ("cosign", "notation")


def test_etc_masks_run_and_lib(tmp_path: Path) -> None:
    etc, run, lib = folders(tmp_path)
    (lib / "edgeprov.toml").write_text('[device]\nserial = "from-lib"\n[record]\nsync = "seal"\n')
    (run / "edgeprov.toml").write_text('[device]\nserial = "from-run"\n')
    assert load_config({}, (etc, run, lib)).device.serial == "from-run"
    (etc / "edgeprov.toml").write_text('[device]\nserial = "from-etc"\n')
    config = load_config({}, (etc, run, lib))
    assert config.device.serial == "from-etc"
    assert config.record.sync == "interval"  # one main file is read, not three merged


def test_drop_ins_of_all_folders_apply_by_name_and_mask_each_other(tmp_path: Path) -> None:
    etc, run, lib = folders(tmp_path)
    (lib / "edgeprov.toml").write_text('[device]\nserial = "main"\n')
    (lib / "edgeprov.toml.d/50-a.toml").write_text('[device]\nserial = "lib-50"\n[runtime]\nthreads = 2\n')
    (etc / "edgeprov.toml.d/50-a.toml").write_text('[device]\nserial = "etc-50"\n')
    (run / "edgeprov.toml.d/40-b.toml").write_text('[device]\nserial = "run-40"\n')
    config = load_config({}, (etc, run, lib))
    assert config.device.serial == "etc-50"
    assert config.runtime.threads == 1  # the whole file of that name in lib is masked
    assert config.origins["device.serial"] == etc / "edgeprov.toml.d/50-a.toml"


def test_the_environment_replaces_all_and_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    etc, run, lib = folders(tmp_path)
    (etc / "edgeprov.toml").write_text('[device]\nserial = "etc"\n')
    mine = tmp_path / "mine.toml"
    mine.write_text('[device]\nstate_dir = "state"\n')
    config = load_config({"EDGEPROV_CONFIG": str(mine)}, (etc, run, lib))
    assert config.device.serial == ""
    assert config.device.state_dir == tmp_path / "state"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[device]\nserail = "x"', "device.serail"),
        ("[devise]\n", "[devise]"),
        ("device = 3", "device"),
        ("[device]\nserial = 3", "device.serial"),
        ('[device]\nserial = "a.b"', "device.serial"),
        ('[device]\nserial = ""', "device.serial"),
        ("[device]\nslots = []", "device.slots"),
        ('[device]\nslots = ["a", "a"]', "device.slots"),
        ('[device]\nslots = ["A"]', "device.slots"),
        ('[device]\nslots = "a"', "device.slots"),
        ('[record]\nsync = "sometimes"', "record.sync"),
        ("[record]\nquota_bytes = 1", "record.quota_bytes"),
        ("[record]\nquota_bytes = true", "record.quota_bytes"),
        ("[record]\ncapture_rate = 1.5", "record.capture_rate"),
        ("[seal]\nsignatures = []", "seal.signatures"),
        ('[seal]\nsignatures = ["pgp"]', "seal.signatures"),
        ("[seal]\npart_bytes = 8388608", "seal.part_bytes"),
        ("[tpm]\npcr = 16", "tpm.pcr"),  # anyone may reset 16 and 23
        ("[tpm]\npcr = 23", "tpm.pcr"),
        ("[trust]\ntime_floor = 2026-01-01T00:00:00", "trust.time_floor"),
        ("[device\n", "TOML"),
    ],
)
def test_a_wrong_file_names_itself_and_the_key(tmp_path: Path, text: str, named: str) -> None:
    file = tmp_path / "edgeprov.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config({"EDGEPROV_CONFIG": str(file)})
    assert str(file) in caught.value.message
    assert named in caught.value.message
    assert caught.value.exit_code == 3


def test_a_missing_or_huge_or_binary_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config({"EDGEPROV_CONFIG": str(tmp_path / "none.toml")})
    huge = tmp_path / "huge.toml"
    huge.write_bytes(b"#" * 300_000)
    with pytest.raises(ConfigError, match="larger"):
        load_config({"EDGEPROV_CONFIG": str(huge)})
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="TOML"):
        load_config({"EDGEPROV_CONFIG": str(binary)})
