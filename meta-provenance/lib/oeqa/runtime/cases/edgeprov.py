# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""testimage: TEST_SUITES = "ping ssh edgeprov". What a device does in the field, on the built image.

Needs packagegroup-provenance-test in the image and a TPM; in QEMU swtpm has to listen (see the layer's
documentation). The cases enroll the device with a CA of their own and keep state, records and registry
below /run/edgeprov-test, but the TPM's counter moves on: an enrolled device is left alone, since its
series would show those numbers as missing.
"""

import json

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase
from oeqa.runtime.decorator.package import OEHasPackage

CONF = "/usr/lib/edgeprov"
MODELS = "/usr/share/edgeprov/models"
RUN = "/run/edgeprov"
WORK = "/run/edgeprov-test"
REGISTRY = "oci:%s/registry" % WORK
UNITS = (
    "edgeprov-boot-check.service",
    "edgeprov-models.target",
    "edgeprov-seal.timer",
    "edgeprov-upload.path",
    "edgeprov-upload.timer",
)
DONE, CHALLENGED, REFUSED = 0, 100, range(10, 20)
# A verb that finds the device's own configuration answers this when there is no certificate.
NO_IDENTITY = (24, 35)
RECORDS = 3
PROGRAM = (
    """
import edgeprov, numpy
with edgeprov.open_device() as device:
    model = device.load_model()
    zeros = [numpy.zeros([abs(n) for n in tensor.shape], tensor.dtype) for tensor in model.inputs]
    for _ in range(%d):
        print(model.run(*zeros).record.n)
"""
    % RECORDS
)
LOAD = """
import edgeprov
from edgeprov.errors import ModelNotReady
try:
    edgeprov.open_device().load_model()
    print("loaded")
except ModelNotReady:
    print("refused")
"""
# The largest blob holds the weights.
FLIP = (
    """
import os, pathlib
path = max(pathlib.Path("%s/models/blobs/sha256").iterdir(), key=lambda blob: blob.stat().st_size)
os.chmod(path, 0o644)
data = bytearray(path.read_bytes())
data[100] ^= 1
path.write_bytes(data)
"""
    % WORK
)


class EdgeprovTest(OERuntimeTestCase):
    """Cases in the order of a device's life."""

    def run_ok(self, command):
        """Run on the target; any other exit status than 0 fails the case."""
        status, output = self.target.run(command)
        self.assertEqual(status, DONE, msg="%s\n%s" % (command, output))
        return output

    def as_user(self, command):
        """Run as the user of the services; neither sudo nor runuser is in a small image."""
        status, output = self.target.run("su -s /bin/sh -c '%s' edgeprov" % command)
        self.assertNotIn("Traceback", output, msg=command)
        return status, output

    def edgeprov(self, words, accept=(DONE,), program="edgeprov", config=None):
        """Run a verb, by default with the device's own configuration; return status and JSON lines."""
        setting = "EDGEPROV_CONFIG=%s " % config if config else ""
        status, output = self.as_user("%s%s %s --json" % (setting, program, words))
        self.assertIn(status, accept, msg="%s %s\n%s" % (program, words, output))
        return status, [json.loads(line) for line in output.splitlines() if line.startswith("{")]

    def item(self, items, kind):
        """The last JSON line of a type."""
        found = [item for item in items if item.get("type") == kind]
        self.assertTrue(found, msg="no %s in %s" % (kind, items))
        return found[-1]

    def write(self, path, text):
        """A small file on the target, which the services' user may read and nobody finds later."""
        self.run_ok("cat > %s <<'END'\n%s\nEND" % (path, text))

    def write_config(self, name, models, run_dir):
        """A configuration beside the device's own: its TPM and anchors, but state and registry below WORK."""
        tcti = self.run_ok("grep '^tcti = ' %s/edgeprov.toml" % CONF)
        lines = [
            "[device]",
            'serial = "testimage"',
            'models_dir = "%s"' % models,
            'state_dir = "%s/state"' % WORK,
            'run_dir = "%s"' % run_dir,
            "[registry]",
            'name = "%s"' % REGISTRY,
            "[seal]",
            "min_kit_interval_s = 0",
            "[trust]",
            'dir = "%s/trust.d"' % CONF,
            "[tpm]",
            tcti,
        ]
        self.write("%s/%s" % (WORK, name), "\n".join(lines))
        return "%s/%s" % (WORK, name)

    def fresh_work(self):
        """An empty folder for the services' user, gone after the case."""
        self.run_ok("rm -rf {w} && mkdir -p {w} && chown edgeprov {w}".format(w=WORK))
        self.addCleanup(self.target.run, "rm -rf " + WORK)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    @OEHasPackage(["edgeprov-services"])
    def test_state_is_on_the_data_partition(self):
        self.run_ok("grep -q ' /var/lib/edgeprov ' /proc/mounts")
        self.assertEqual(self.run_ok("stat -c %U /var/lib/edgeprov").strip(), "edgeprov")

    @OETestDepends(["edgeprov.EdgeprovTest.test_state_is_on_the_data_partition"])
    def test_units_are_active(self):
        # ssh is there before the boot ends; whether all went well is asked below.
        self.target.run("systemctl is-system-running --wait")
        for unit in UNITS:
            self.run_ok("systemctl is-active " + unit)
        self.assertEqual(self.run_ok("systemctl list-units --failed --no-legend 'edgeprov*'").strip(), "")

    @OETestDepends(["edgeprov.EdgeprovTest.test_units_are_active"])
    def test_tpm_is_there_for_the_service_user(self):
        status, output = self.as_user("test -r /dev/tpmrm0 -a -w /dev/tpmrm0")
        self.assertEqual(status, DONE, msg=output)

    @OETestDepends(["edgeprov.EdgeprovTest.test_units_are_active"])
    def test_a_technician_may_ask_for_an_upload(self):
        status, output = self.as_user("touch %s/trigger/upload" % RUN)
        self.assertEqual(status, DONE, msg=output)

    @OETestDepends(["edgeprov.EdgeprovTest.test_units_are_active"])
    def test_boot_check_measured_the_baked_models(self):
        index = json.loads(self.run_ok("cat %s/index.json" % MODELS))
        baked = {manifest["digest"] for manifest in index["manifests"]}
        stamp = json.loads(self.run_ok("cat %s/boot.json" % RUN))
        self.assertEqual(stamp["boot_id"], self.run_ok("cat /proc/sys/kernel/random/boot_id").strip())
        self.assertTrue(stamp["slots"], msg=stamp)
        for slot, found in stamp["slots"].items():
            self.assertEqual(found["verdict"], "verified", msg="slot %s: %s" % (slot, found))
            self.assertIn(found["model"], baked, msg="slot %s" % slot)

    @OETestDepends(["edgeprov.EdgeprovTest.test_boot_check_measured_the_baked_models"])
    def test_a_tampered_model_is_refused(self):
        self.fresh_work()
        # With this boot's event log, or the check would stop at a PCR that the log does not explain.
        self.run_ok("cp -r {m} {w}/models && cp -r {r} {w}/run".format(m=MODELS, r=RUN, w=WORK))
        self.write(WORK + "/flip.py", FLIP)
        self.run_ok("python3 {w}/flip.py && chown -R edgeprov {w}".format(w=WORK))
        config = self.write_config("tampered.toml", WORK + "/models", WORK + "/run")
        # The refusal is measured too: the device's own log has to tell of it, and its model be measured anew.
        self.addCleanup(self.as_user, "cp {w}/run/events.log {r} && edgeprov boot-check".format(w=WORK, r=RUN))
        self.edgeprov("boot-check", accept=REFUSED, config=config)
        self.write(WORK + "/load.py", LOAD)
        _, output = self.as_user("EDGEPROV_CONFIG=%s python3 %s/load.py" % (config, WORK))
        self.assertEqual(output.splitlines()[-1:], ["refused"], msg=output)

    @OETestDepends(["edgeprov.EdgeprovTest.test_boot_check_measured_the_baked_models"])
    @OEHasPackage(["python3-edgeprov-fleet"])
    def test_records_are_sealed_by_the_tpm_uploaded_and_verified(self):
        status, _ = self.edgeprov("identity show", accept=(DONE, *NO_IDENTITY))
        if status == DONE:
            self.skipTest("this device is enrolled: its series of kits stays as it is")
        self.fresh_work()
        config = self.write_config("edgeprov.toml", MODELS, RUN)
        self.enroll(config)
        self.write(WORK + "/records.py", PROGRAM)
        status, output = self.as_user("EDGEPROV_CONFIG=%s python3 %s/records.py" % (config, WORK))
        self.assertEqual(status, DONE, msg=output)
        self.edgeprov("seal", config=config)
        self.edgeprov("upload", config=config)
        self.fleet("sync %s --fleet %s/fleet" % (REGISTRY, WORK))
        _, kits = self.fleet("verify --records --fleet {w}/fleet --trust {w}/trust.d".format(w=WORK))
        verified = self.item(kits, "verified")
        self.assertEqual((verified["ok"], verified["refused"], verified["unreachable"]), (1, 0, 0), msg=kits)

    def fleet(self, words, accept=(DONE,)):
        """Run a verb of the vendor's side, on the target too: the test host may lack its libraries."""
        return self.edgeprov(words, accept, program="edgeprov-fleet")

    def enroll(self, config):
        """What the factory does, with a CA that lives as long as the case."""
        files = {"w": WORK, "r": REGISTRY, "t": CONF}
        self.fleet("ca init {w}/ca".format(**files))
        # The image's publishers, the test's devices.
        self.as_user("mkdir {w}/trust.d && cp {w}/ca/trust.d/* {t}/trust.d/publisher*.pem {w}/trust.d".format(**files))
        self.edgeprov("identity create", config=config)
        self.edgeprov("identity csr -o {w}/request.json".format(**files), config=config)
        command = "enroll {w}/request.json --to {r} --ca {w}/ca -o {w}/identity.json".format(**files)
        status, _ = self.fleet(command, accept=(DONE, CHALLENGED))
        if status == CHALLENGED:
            # This TPM has its maker's certificate, and proves that it is this very TPM.
            self.edgeprov("identity activate {w}/identity.json -o {w}/response.json".format(**files), config=config)
            self.fleet(command + " --response {w}/response.json".format(**files))
        self.edgeprov("identity install {w}/identity.json".format(**files), config=config)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    @OEHasPackage(["edgeprov-services"])
    def test_doctor_finds_an_interpreter(self):
        _, findings = self.edgeprov("doctor", accept=range(0, 101))
        verdicts = {finding["check"]: finding["verdict"] for finding in findings if finding["type"] == "finding"}
        self.assertEqual(verdicts["interpreter"], "ok", msg="PROVENANCE_RUNTIME installs no interpreter: %s" % findings)
