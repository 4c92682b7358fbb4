#!/usr/bin/env python3
# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Builds the image of the virtual device: a Debian with edgeprov as it would be flashed.

No loop device, no mount, no emulation. Four layers, each a folder in the cache that is named by the
hash of its inputs, so that a commit rebuilds only the last one:

    base    Debian bookworm by mmdebstrap          packages, flags
    python  edgeprov's dependencies, unpacked      lock file
    kernel  kernel, modules, own initrd            kernel package, list of modules
    root    everything together, as ext4           all above, this tree, the vendor's trust

Usage: build.py [image|vendor] [amd64|arm64]. Prints one line per artifact: KERNEL, INITRD, ROOT, VENDOR, KEY (for
ssh). With `vendor` only the last two, which a board or an image built elsewhere needs as well.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import arm64
from layers import CACHE, PYTHON, ROOT, compile_all, layer, run

HERE = Path(__file__).resolve().parent
FLEET = ROOT / ".venv/fleet/bin/edgeprov-fleet"
PACK = ROOT / "meta-provenance/lib/oeprov/pack.py"

PACKAGES = [
    "systemd-sysv", "udev", "kmod", "iproute2", "ca-certificates", "python3", "libtss2-esys-3.0.2-0", "libtss2-mu0",
    "libtss2-rc0", "libtss2-tctildr0", "libtss2-tcti-device0", "libtss2-fapi1", "libtss2-sys1", "dropbear-bin",
    "openssh-sftp-server", "e2fsprogs", "fsverity",
]  # fmt: skip
NO_DOCS = ["/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*"]
KERNEL_PACKAGE = "linux-image-amd64"
# In load order: what the root file system needs, then what udev loads by itself when asked.
INITRD_MODULES = [
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "crc16",
    "crc32c_generic", "mbcache", "jbd2", "ext4",
]  # fmt: skip
ROOT_MODULES = [
    "virtio_net", "net_failover", "failover", "virtio-rng", "usbcore", "usb-common", "xhci-hcd", "xhci-pci",
    "usb-storage", "scsi_common", "scsi_mod", "sd_mod", "t10-pi", "crc64", "crc64-rocksoft", "crc-t10dif",
    "crct10dif_common", "crct10dif_generic",
    "crc64_rocksoft_generic", "fat", "vfat", "nls_ascii", "nls_cp437", "i6300esb",
]  # fmt: skip
# Debian's ARM kernel for virtual machines has no USB.
NOT_ON_ARM = {
    "usbcore", "usb-common", "xhci-hcd", "xhci-pci", "usb-storage", "scsi_common", "scsi_mod", "sd_mod", "t10-pi",
    "fat", "vfat", "nls_ascii", "nls_cp437", "i6300esb",
}  # fmt: skip
# Nothing here serves the device, and each costs seconds of boot under emulation.
MASKED = [
    "systemd-logind.service", "systemd-networkd.service", "systemd-networkd.socket",
    "systemd-networkd-wait-online.service", "systemd-timesyncd.service", "systemd-pstore.service",
    "systemd-random-seed.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
    "systemd-binfmt.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
    "proc-sys-fs-binfmt_misc.automount", "e2scrub_reap.service", "e2scrub_all.timer", "apt-daily.timer",
    "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "getty@tty1.service",
    "systemd-machine-id-commit.service", "systemd-firstboot.service", "systemd-hwdb-update.service",
    "ldconfig.service", "getty-static.service",
]  # fmt: skip
ENABLED = [
    "edgeprov-boot-check.service", "edgeprov-models.target", "edgeprov-upload.path", "edgeprov-upload.timer",
    "edgeprov-seal.timer", "edgeprov-serial.service", "hil-network.service", "hil-ssh.service",
]  # fmt: skip


def base(arch: str) -> Path:
    """A minimal Debian as base.tar."""
    flags = ["--mode=root", "--variant=minbase", "--format=tar", f"--include={','.join(PACKAGES)}"]
    flags += [f"--dpkgopt=path-exclude={path}" for path in NO_DOCS] + ['--aptopt=Acquire::Retries "3"']
    flags += ["--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/*.bin"]

    def make(work: Path) -> None:
        run("mmdebstrap", *flags, "bookworm", work / "base.tar")

    native = layer("base", flags, make, "Debian bookworm by mmdebstrap (some minutes, once)", as_root=True)
    return native if arch == "amd64" else arm64.base(native)


def python(arch: str) -> Path:
    """What edgeprov's device side needs at run time, from the lock file with hashes, byte-compiled."""
    lock = (ROOT / "requirements-device.lock").read_text()
    script = HERE / "runtime.py"

    def make(work: Path) -> None:
        site = work / "usr/lib/edgeprov/python"
        if arch == "arm64":
            arm64.install_packages(lock, site, work)
        else:
            run(PYTHON, "-m", "pip", "install", "-q", "--no-deps", "--no-compile", "--require-hashes", "--target",
                site, "-r", ROOT / "requirements-device.lock")  # fmt: skip
        run(PYTHON, script, site, "edgeprov", ROOT / "pyproject.toml")
        for pattern in ("numpy/**/tests", "bin", "**/__pycache__"):
            for path in list(site.glob(pattern)):
                shutil.rmtree(path, ignore_errors=True)
        compile_all(work, site)
        paths = work / "usr/lib/python3/dist-packages"
        paths.mkdir(parents=True)
        (paths / "edgeprov.pth").write_text("/usr/lib/edgeprov/python\n")

    name, inputs = "python", [lock, script.read_text()]
    if arch == "arm64":
        name, inputs = "arm64.python", [*inputs, Path(arm64.__file__).read_text()]
    return layer(name, inputs, make, "Python packages of the lock file")


def kernel(arch: str) -> Path:
    """Debian's kernel, the modules of a virtual board, and an initrd of one busybox."""
    init = (HERE / "init").read_text()
    if arch == "arm64":
        name, version = "arm64.kernel", arm64.tools().name
    else:
        depends = run("apt-cache", "show", "--no-all-versions", KERNEL_PACKAGE).stdout
        name = "kernel"
        version = next(line.split()[1] for line in depends.splitlines() if line.startswith("Depends:")).rstrip(",")

    def make(work: Path) -> None:
        debs = work / "debs"
        if arch == "arm64":
            arm64.unpack_kernel(debs)
        else:
            run("apt-get", "download", "-qq", version, "busybox-static", cwd=work)
            for deb in work.glob("*.deb"):
                run("dpkg", "-x", deb, debs)
                deb.unlink()
        release = next((debs / "lib/modules").iterdir()).name
        modules = debs / "lib/modules" / release
        shutil.copy(debs / f"boot/vmlinuz-{release}", work / "vmlinuz")
        found = {path.name.removesuffix(".ko"): path for path in modules.rglob("*.ko")}
        built_in = {Path(line).name.removesuffix(".ko") for line in (modules / "modules.builtin").read_text().split()}
        absent = built_in | (NOT_ON_ARM if arch == "arm64" else set())
        tree = work / "tree/lib/modules" / release
        initrd, others = ([item for item in names if item not in absent] for names in (INITRD_MODULES, ROOT_MODULES))
        others += ["tpm_tis_core", "tpm_tis"] if arch == "arm64" else []
        for item in (*initrd, *others):
            target = tree / found[item].relative_to(modules)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found[item], target)
        for item in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
            shutil.copy(modules / item, tree)
        run("depmod", "-b", work / "tree", release)
        make_initrd(work, debs, [found[item] for item in initrd], init)
        shutil.rmtree(debs)

    return layer(name, [version, init, *INITRD_MODULES, *ROOT_MODULES], make, f"kernel {version} and initrd")


def make_initrd(work: Path, debs: Path, modules: list[Path], init: str) -> None:
    """busybox, the modules in load order, and our init, as gzip'd cpio."""
    tree = work / "initrd"
    for name in ("bin", "dev", "proc", "sys", "root", "modules"):
        (tree / name).mkdir(parents=True)
    shutil.copy(debs / "bin/busybox", tree / "bin")
    for module in modules:
        shutil.copy(module, tree / "modules")
    (tree / "modules/order").write_text("".join(f"{module.name}\n" for module in modules))
    (tree / "init").write_text(init)
    (tree / "init").chmod(0o755)
    names = "\0".join(sorted(str(path.relative_to(tree)) for path in tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-0", "-o", "-H", "newc", "-R", "0:0", "--quiet"], input=names.encode(), cwd=tree, check=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    (work / "initrd.gz").write_bytes(gzip.compress(packed.stdout, 6, mtime=0))
    shutil.rmtree(tree)


def vendor() -> Path:
    """The vendor's CAs, trust anchors for devices, the baked-in model, and the bench's SSH key."""
    kit = [path for path in (ROOT / "hil/model/kit").rglob("*") if path.is_file()]
    # What writes these files: an older trust folder would be kept, and refused by the programs of today.
    writers = [path for name in ("enrollment", "publishing") for path in (ROOT / "edgeprov/fleet" / name).glob("*.py")]
    inputs = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((*kit, *writers))]

    def make(work: Path) -> None:
        run(FLEET, "ca", "init", work / "ca")
        kit = ROOT / "hil/model/kit"
        to = ("--to", f"oci:{work / 'models'}", "--tag", "slot.default")
        out = run(FLEET, "publish", kit, *to, "--ca", work / "ca", "--json")
        (work / "published.json").write_text(out.stdout)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hil", "-f", work / "ssh")

    return layer("vendor", inputs, make, "vendor CAs and the signed model that the image brings")


def source() -> list[Path]:
    """The files of this tree that go into the image."""
    folders = (ROOT / "edgeprov", HERE / "files")
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in found if "__pycache__" not in path.parts and "fleet" not in path.parts)


def root(arch: str) -> Path:
    """The root file system."""
    parts = [base(arch), python(arch), kernel(arch), vendor()]
    digests = [hashlib.sha256(str(path).encode() + path.read_bytes()).hexdigest() for path in source()]
    scripts = [path.read_text() for path in (Path(__file__), PACK, PACK.with_name("packed.py"))]
    inputs = [str(part) for part in parts] + digests + scripts

    def make(work: Path) -> None:
        tree = work / "tree"
        tree.mkdir()
        run("tar", "-C", tree, "-xpf", parts[0] / "base.tar", "--exclude=./dev/*")
        run("cp", "-a", f"{parts[1]}/usr", tree)
        run("cp", "-a", f"{parts[2]}/tree/lib/modules", tree / "usr/lib")
        install_edgeprov(tree)
        install_bench(tree, parts[3])
        run("mke2fs", "-q", "-t", "ext4", "-O", "verity,^has_journal", "-L", "edgeprov-root", "-m", "0", "-E",
            "root_owner=0:0", "-d", tree, work / "root.ext4", "640M")  # fmt: skip
        shutil.rmtree(tree)

    name = "root" if arch == "amd64" else "arm64.root"
    return layer(name, inputs, make, "root file system from this tree", as_root=True)


def install_edgeprov(tree: Path) -> None:
    """The wheel of this tree, its units and settings, as a package would place them."""
    with tempfile.TemporaryDirectory() as folder:
        # Built from a copy: setuptools leaves build folders where it works.
        copy = Path(folder) / "source"
        shutil.copytree(ROOT / "edgeprov", copy / "edgeprov", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"):
            shutil.copy(ROOT / name, copy)
        run(PYTHON, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, copy)
        site = tree / "usr/lib/edgeprov/python"
        run("python3", "-m", "zipfile", "-e", next(Path(folder).glob("*.whl")), site)
    # As the recipe does: one file of byte code in place of the folder.
    run(PYTHON, PACK, site / "edgeprov", site / "edgeprov.pyc")
    shutil.rmtree(site / "edgeprov")
    data = ROOT / "edgeprov/data"
    places = {
        ".service": "usr/lib/systemd/system", ".target": "usr/lib/systemd/system", ".timer": "usr/lib/systemd/system",
        ".path": "usr/lib/systemd/system", ".rules": "usr/lib/udev/rules.d", ".catalog": "usr/lib/systemd/catalog",
    }  # fmt: skip
    renamed = {
        "sysusers-edgeprov.conf": "usr/lib/sysusers.d/edgeprov.conf",
        "tmpfiles-edgeprov.conf": "usr/lib/tmpfiles.d/edgeprov.conf",
        "tpm-timeout.conf": "usr/lib/systemd/system/dev-tpmrm0.device.d/edgeprov.conf",
    }
    for path in data.iterdir():
        if path.name in renamed:
            target = tree / renamed[path.name]
        elif path.suffix in places:
            target = tree / places[path.suffix] / path.name
        else:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def install_bench(tree: Path, vendor_home: Path) -> None:
    """What the vendor adds: users, trust, model, serial number, network; and the bench's way in."""
    run("cp", "-a", "--no-preserve=ownership", f"{HERE}/files/.", tree)
    run("systemd-sysusers", f"--root={tree}")
    (tree / "etc/machine-id").write_text(hashlib.sha256(b"edgeprov hil").hexdigest()[:32] + "\n")
    (tree / "etc/hostname").write_text("edgeprov\n")
    (tree / "etc/resolv.conf").write_text("")
    # A clock without a battery starts before the vendor's certificates; it is never believed to be before the image.
    published = datetime.fromtimestamp((vendor_home / "published.json").stat().st_mtime, UTC)
    with (tree / "usr/lib/edgeprov/edgeprov.toml").open("a") as settings:
        settings.write(f"\n[trust]\ntime_floor = {published:%Y-%m-%dT%H:%M:%SZ}\n")
    (tree / "var/lib/edgeprov").mkdir(parents=True, exist_ok=True)
    shutil.copytree(vendor_home / "ca/device-trust.d", tree / "etc/edgeprov/trust.d")
    shutil.copytree(vendor_home / "models", tree / "usr/share/edgeprov/models")
    run("chmod", "-R", "a+rX", tree / "etc/edgeprov", tree / "usr/share/edgeprov")
    shutil.copy(ROOT / "hil/model/test_cases.npz", tree / "usr/share/edgeprov/test_cases.npz")
    keys = tree / "root/.ssh"
    keys.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(vendor_home / "ssh.pub", keys / "authorized_keys")
    (tree / "etc/dropbear").mkdir(exist_ok=True)
    if not (tree / "etc/dropbear/hil_host_key").exists():
        run("chroot", tree, "dropbearkey", "-t", "ed25519", "-f", "/etc/dropbear/hil_host_key")
    units = tree / "etc/systemd/system"
    for name in MASKED:
        (units / name).unlink(missing_ok=True)
        (units / name).symlink_to("/dev/null")
    run("systemctl", f"--root={tree}", "enable", "-q", *ENABLED)
    shadow = tree / "etc/shadow"
    shadow.write_text(re.sub(r"^root:[^:]*:", "root::", shadow.read_text(), flags=re.MULTILINE))


def main() -> None:
    """Build what is missing, and tell where it is."""
    what, arch = (sys.argv[1:] + ["image", "amd64"][len(sys.argv) - 1 :])[:2]
    CACHE.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for tool in ("mmdebstrap", "mke2fs", "depmod", "cpio", "ssh-keygen", "systemctl", "systemd-sysusers"):
            if shutil.which(tool) is None:
                raise SystemExit(f"image: {tool} is not installed; ./hil/run installs it")
        if what == "image":
            home, kernel_home = root(arch), kernel(arch)
            print(f"KERNEL={kernel_home / 'vmlinuz'}\nINITRD={kernel_home / 'initrd.gz'}\nROOT={home / 'root.ext4'}")
        vendor_home = vendor()
    print(f"VENDOR={vendor_home}\nKEY={vendor_home / 'ssh'}")


if __name__ == "__main__":
    main()
