# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""labgrid drivers for the virtual device: QEMU with a swtpm, and its network plug.

`off()` pulls the plug, as a relay does: QEMU and swtpm get SIGKILL. An orderly shutdown is a command
on the device. Everything that only a virtual device can do (faults, snapshots) is below "faults";
tests that use it carry the marker `virtual`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import platform
import select
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attr
from labgrid.driver import Driver
from labgrid.driver.consoleexpectmixin import ConsoleExpectMixin
from labgrid.factory import target_factory
from labgrid.protocol import ConsoleProtocol, DigitalOutputProtocol, PowerProtocol
from labgrid.step import step
from pexpect import TIMEOUT

from harness.sockets import SocketFolder

RELAY = Path(__file__).with_name("relay.py")
# no_timer_check: on a loaded host an emulated timer is late, and the kernel takes it for a broken one and panics.
KERNEL_LINE = "net.ifnames=0 selinux=0 apparmor=0 no_timer_check quiet systemd.show_status=0"
TIMERS_OFF = "systemd.mask=edgeprov-upload.timer systemd.mask=edgeprov-seal.timer"
SNAPSHOT = "enrolled"
PATIENCE_S = 600  # for what must happen; only a failure takes so long, however loaded the machine is


class QmpError(Exception):
    """QEMU refused a command."""


class Qmp:
    """The part of QEMU's machine protocol that is needed here."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        self._socket.settimeout(PATIENCE_S)
        self._file = self._socket.makefile("rb")
        json.loads(self._file.readline())
        self.run("qmp_capabilities")

    def run(self, command: str, **arguments: Any) -> Any:
        """One command; events in between are dropped."""
        self._socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while line := self._file.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise QmpError(f"{command}: QEMU is gone")

    def job(self, command: str, **arguments: Any) -> None:
        """Run a job to its end."""
        name = f"job{time.monotonic_ns()}"
        self.run(command, **{"job-id": name, **arguments})
        while True:
            state = next(item for item in self.run("query-jobs") if item["id"] == name)
            if state["status"] == "concluded":
                self.run("job-dismiss", id=name)
                if "error" in state:
                    raise QmpError(f"{command}: {state['error']}")
                return
            time.sleep(0.05)

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def kvm_usable() -> bool:
    """The existence of /dev/kvm proves nothing: without vmx or svm it is an emulation that crawls."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return os.access("/dev/kvm", os.W_OK) and ("vmx" in flags or "svm" in flags)


@target_factory.reg_driver
@attr.s(eq=False)
class HilQemuDriver(ConsoleExpectMixin, Driver, PowerProtocol, ConsoleProtocol):
    """A virtual device. `prepare` gives it disks and a TPM before it is switched on.

    Args:
        program: QEMU binary.
        machine: With the TPM's bus in mind: q35 (x86-64) or virt (arm64).
        tpm: Device model of the TPM.
        kernel, initrd, root: The image; ``root`` is never written. An empty ``initrd`` is none.
        console: The serial line, as the kernel calls it.
        memory: In MiB.
        kernel_line: Further words for the kernel.
    """

    program = attr.ib(validator=attr.validators.instance_of(str))
    machine = attr.ib(validator=attr.validators.instance_of(str))
    tpm = attr.ib(validator=attr.validators.instance_of(str))
    kernel = attr.ib(validator=attr.validators.instance_of(str))
    initrd = attr.ib(validator=attr.validators.instance_of(str))
    root = attr.ib(validator=attr.validators.instance_of(str))
    cpu = attr.ib(default="max", validator=attr.validators.instance_of(str))
    console = attr.ib(default="ttyS0", validator=attr.validators.instance_of(str))
    memory = attr.ib(default=512, validator=attr.validators.instance_of(int))
    kernel_line = attr.ib(default="", validator=attr.validators.instance_of(str))

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.txdelay = None
        self.txchunk = None
        self.folder: Path | None = None
        self._qemu: subprocess.Popen[bytes] | None = None
        self._swtpm: subprocess.Popen[bytes] | None = None
        self._serial: socket.socket | None = None
        self._sockets: SocketFolder | None = None
        self.qmp: Qmp | None = None
        self._boots = itertools.count()

    # -- what the device is made of -------------------------------------------------------------
    def prepare(self, folder: Path, *, registry_port: int, serial: str, like: Path | None = None) -> None:
        """Give the device its disks and its TPM, new or as copies of another folder's.

        Args:
            folder: Where they lie, and where all logs go.
            registry_port: Port on the host that the device reaches as 10.0.2.100:5000.
            serial: Serial number in its firmware.
            like: Folder of a device that was saved with `save`; it goes on from there.
        """
        self.off()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.registry_port = registry_port
        self.serial = serial
        self.rtc = "base=utc,clock=host"
        self.without_tpm = False
        self.load = SNAPSHOT if like is not None else None
        self.boot_line = TIMERS_OFF
        self.extra: list[str] = []
        self.data_layers: list[str] = []
        self.set_fault("ok")
        if like is not None:
            for name in ("root.qcow2", "data.qcow2"):
                run("cp", "--sparse=always", "--reflink=auto", like / name, folder / name)
            shutil.copytree(like / "tpm", folder / "tpm")
            return
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.root, "-F", "raw", folder / "root.qcow2")
        run("truncate", "-s", "128M", folder / "data.raw")
        # The last MiB stays outside the file system: a workload marks its acknowledgements there.
        run("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-O", "verity", "-L", "edgeprov-data", "-m", "0",
            folder / "data.raw", "127M")  # fmt: skip
        run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", folder / "data.raw", folder / "data.qcow2")
        (folder / "data.raw").unlink()

    @property
    def ssh_port(self) -> int:
        """Port on the host's loopback that reaches the device's SSH."""
        return self._ssh_port

    # -- PowerProtocol --------------------------------------------------------------------------
    def on_deactivate(self) -> None:
        self.off()

    def start_tpm(self) -> None:
        """Start the TPM; it is part of the device and falls with it."""
        if self._swtpm is not None or self.without_tpm:
            return
        if self._sockets is None:
            self._sockets = SocketFolder()
        control = self._sockets / "tpm"
        control.unlink(missing_ok=True)
        self._swtpm = self._start("swtpm.log", [
            "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.folder}/tpm,mode=0600", "--ctrl",
            f"type=unixio,path={control}",
        ])  # fmt: skip
        self._wait_for(control, self._swtpm, "swtpm")

    @step()
    def on(self) -> None:
        """Switch the device on."""
        if self._qemu is not None:
            return
        assert self.folder is not None, "prepare() comes first"
        self.start_tpm()
        if self._sockets is None:
            self._sockets = SocketFolder()
        for name in ("serial", "qmp"):
            (self._sockets / name).unlink(missing_ok=True)
        self._ssh_port = free_port()
        boot = next(self._boots)
        self._qemu = self._start(f"qemu-{boot}.log", self._command(boot))
        self._wait_for(self._sockets / "qmp", self._qemu, "QEMU")
        try:
            self._serial = socket.socket(socket.AF_UNIX)
            self._serial.connect(str(self._sockets / "serial"))
            self.qmp = Qmp(self._sockets / "qmp")
            self.qmp.run("cont")
        except (OSError, ValueError, QmpError) as error:  # it ended right after it had begun to listen
            words = (self.folder / f"qemu-{boot}.log").read_text(errors="replace")[-500:]
            self.off()
            raise BenchError(f"QEMU does not start: {words}") from error
        self.load = None

    @step()
    def off(self) -> None:
        """Pull the plug."""
        if self.qmp is not None:
            self.qmp.close()
            self.qmp = None
        if self._serial is not None:
            self._serial.close()
            self._serial = None
        for process in (self._qemu, self._swtpm):
            if process is not None:
                process.kill()
                process.wait()
        self._qemu = self._swtpm = None
        if self._sockets is not None:
            self._sockets.remove()
            self._sockets = None

    def cycle(self) -> None:
        """Pull the plug and put it back."""
        self.off()
        self.on()

    def _command(self, boot: int) -> list[str]:
        assert self.folder is not None
        assert self._sockets is not None
        relay = f"{sys.executable} {RELAY} {self.registry_port} {self.folder / 'fault.json'}"
        network = f"user,id=wan,restrict=on,hostfwd=tcp:127.0.0.1:{self._ssh_port}-10.0.2.15:22"
        network += f",guestfwd=tcp:10.0.2.100:5000-cmd:{relay}"
        console = f"socket,id=console,path={self._sockets / 'serial'},server=on,wait=off"
        data = f"qcow2,node-name=data,file.driver=file,file.filename={self.folder}/data.qcow2,file.node-name=datafile"
        line = f"console={self.console} {KERNEL_LINE} {self.kernel_line} {self.boot_line}"
        if self.machine.startswith("virt"):  # no firmware, hence no DMI
            line += f" edgeprov.serial={self.serial}"
        command = [
            self.program, "-M", self.machine, *self._processor(), "-smp", "2", "-m", str(self.memory), "-S",
            "-nic", "none", "-display", "none", "-no-user-config", "-nodefaults",
            "-smbios", f"type=1,serial={self.serial}",
            "-kernel", self.kernel, "-append", line, *(["-initrd", self.initrd] if self.initrd else []),
            "-blockdev", f"qcow2,node-name=root,file.driver=file,file.filename={self.folder}/root.qcow2",
            "-device", "virtio-blk-pci,drive=root,id=disk0",
            *(self.data_layers or ["-blockdev", data]),
            "-device", "virtio-blk-pci,drive=data,id=disk1,werror=report,rerror=report",
            "-netdev", network, "-device", "virtio-net-pci,netdev=wan,id=nic0,romfile=",
            "-chardev", f"{console},logfile={self.folder}/serial-{boot}.log", "-serial", "chardev:console",
            "-qmp", f"unix:{self._sockets / 'qmp'},server=on,wait=off", "-rtc", self.rtc, "-device", "qemu-xhci,id=usb",
        ]  # fmt: skip
        if not self.without_tpm:
            command += ["-chardev", f"socket,id=tpm,path={self._sockets / 'tpm'}"]
            command += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", f"{self.tpm},tpmdev=tpm0"]
        if self.load is not None:
            command += ["-loadvm", self.load]
        return command + self.extra

    def _processor(self) -> list[str]:
        native = self.program.endswith(platform.machine())
        return ["-accel", "kvm", "-cpu", "host"] if native and kvm_usable() else [
            "-accel", "tcg,thread=multi", "-cpu", self.cpu]  # fmt: skip

    def _start(self, log: str, command: list[str]) -> subprocess.Popen[bytes]:
        assert self.folder is not None
        with (self.folder / log).open("ab") as output:
            # The kernel kills it when this process dies, however that happens.
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def _wait_for(self, path: Path, process: subprocess.Popen[bytes], name: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not path.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                assert self.folder is not None
                logs = sorted(self.folder.glob(f"{name.lower()}*.log"), key=lambda item: item.stat().st_mtime)
                words = logs[-1].read_text(errors="replace")[-500:] if logs else ""
                self.off()
                raise BenchError(f"{name} does not start: {words}")
            time.sleep(0.01)

    # -- ConsoleProtocol ------------------------------------------------------------------------
    def _read(self, size: int = 1, timeout: float = 10, max_size: int | None = None) -> bytes:
        if self._serial is None:
            raise TIMEOUT("the device is off")
        if not select.select([self._serial], [], [], timeout)[0]:
            raise TIMEOUT(f"Timeout of {timeout:.2f} seconds exceeded")
        data = self._serial.recv(max_size or 4096)
        if not data:
            raise TIMEOUT("QEMU ended")
        return data

    def _write(self, data: bytes) -> int:
        if self._serial is None:
            raise TIMEOUT("the device is off")
        self._serial.sendall(data)
        return len(data)

    def last_words(self) -> str:
        """The end of what the device wrote on its console since it was switched on last."""
        assert self.folder is not None
        logs = sorted(self.folder.glob("serial-*.log"), key=lambda item: item.stat().st_mtime)
        lines = logs[-1].read_text(errors="replace").split("\n")[-5:] if logs else []
        return f"{' | '.join(line.strip() for line in lines if line.strip()) or 'nothing'} ({self.folder})"

    # -- faults ---------------------------------------------------------------------------------
    def set_fault(self, mode: str, **values: float | str) -> None:
        """What the wire to the registry does from the next connection on; see relay.py."""
        assert self.folder is not None
        new = self.folder / "fault.json.new"
        new.write_text(json.dumps({"mode": mode, **values}))
        new.replace(self.folder / "fault.json")

    def connections(self) -> int:
        """How many connections to the registry the device has opened."""
        assert self.folder is not None
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "fault.connections").stat().st_size
        return 0

    def set_link(self, *, up: bool) -> None:
        """Plug the network cable in or out."""
        if self.qmp is not None:
            self.qmp.run("set_link", name="nic0", up=up)

    def kill_tpm(self) -> None:
        """The TPM dies while the device runs."""
        assert self._swtpm is not None
        self._swtpm.kill()
        self._swtpm.wait()

    def save(self, target: Path) -> None:
        """Save the running device, memory and TPM included, for `prepare(like=...)`; it is off afterwards."""
        assert self.qmp is not None
        assert self.folder is not None
        self.qmp.run("stop")
        self.qmp.job("snapshot-save", tag=SNAPSHOT, vmstate="root", devices=["root", "data"])
        self.qmp.run("quit")
        assert self._qemu is not None
        self._qemu.wait()
        self.off()
        target.mkdir(parents=True)
        for name in ("root.qcow2", "data.qcow2", "tpm"):
            shutil.move(self.folder / name, target / name)

    def throttle(self, bytes_per_s: int) -> None:
        """Slow the data disk down; 0 heals it."""
        assert self.qmp is not None
        values = dict.fromkeys(("bps", "bps_rd", "iops", "iops_rd", "iops_wr"), 0)
        path = "/machine/peripheral/disk1/virtio-backend"
        self.qmp.run("block_set_io_throttle", id=path, bps_wr=bytes_per_s, **values)

    def log_writes(self) -> tuple[Path, Path]:
        """From the next boot on log every write to the data disk; the disk as it is now, and the log."""
        assert self.folder is not None
        before, log = self.data_image(), self.folder / "log.raw"
        log.touch()
        run("cp", "--sparse=always", before, self.folder / "before.raw")
        layers = f"blklogwrites,node-name=data,file.driver=file,file.filename={before}"
        layers += f",log.driver=file,log.filename={log},log-sector-size=512"
        self.data_layers = ["-blockdev", layers]
        return self.folder / "before.raw", log

    def data_image(self) -> Path:
        """The data disk of the device, which is off, as a raw file."""
        assert self.folder is not None
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.folder / "data.qcow2", self.folder / "data.raw")
        return self.folder / "data.raw"


class BenchError(Exception):
    """The bench is broken, not the device: a test that meets this says nothing about edgeprov."""


@target_factory.reg_driver
@attr.s(eq=False)
class HilCableDriver(Driver, DigitalOutputProtocol):
    """The network cable of the virtual device; on a board a relay or a managed switch takes its place."""

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._up = True

    @Driver.check_active
    def set(self, status: bool) -> None:
        """True plugs it in."""
        # Not a binding: labgrid gives a driver to one user at a time, and the console is in use.
        self.target.get_driver(HilQemuDriver).set_link(up=status)
        self._up = status

    @Driver.check_active
    def get(self) -> bool:
        """Whether it is plugged in."""
        return self._up


def run(*command: str | Path) -> str:
    """Run a tool of the bench."""
    words = [str(word) for word in command]
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    result = subprocess.run(
        words, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    if result.returncode:
        raise BenchError(f"{' '.join(words)}: {(result.stdout + result.stderr).strip()[-500:]}")
    return result.stdout


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]):  # type: ignore[no-untyped-def]
    """End a process of the bench after the body."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
