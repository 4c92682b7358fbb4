# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: MIT
"""testimage: TEST_SUITES += "ssh edgeprov". What a device does in the field, on the built image.

Runs with a simulated or emulated TPM; in QEMU swtpm has to listen (see the layer's documentation).
Changes state only below /var/lib/edgeprov and /run, never the read-only image.
"""

import json

from oeqa.core.decorator.depends import OETestDepends
from oeqa.runtime.case import OERuntimeTestCase
from oeqa.runtime.decorator.package import OEHasPackage

MODELS = "/usr/share/edgeprov/models"
COPY = "/run/edgeprov-test"
AS_USER = "runuser -u edgeprov -- "
NO_IDENTITY = 24
PROGRAM = """
import edgeprov, numpy
with edgeprov.open_device() as device:
    model = device.load_model()
    zeros = [numpy.zeros([abs(n) for n in tensor.shape], tensor.dtype) for tensor in model.inputs]
    for _ in range(3):
        model.run(*zeros)
"""


class EdgeprovTest(OERuntimeTestCase):
    """Cases in the order of a device's life."""

    def run_ok(self, command, expected=0):
        """Run on the target and compare the exit status."""
        status, output = self.target.run(command)
        self.assertEqual(status, expected, msg="%s\n%s" % (command, output))
        return output

    def objects(self, command, expected=0):
        """The JSON objects that a command with --json writes."""
        lines = self.run_ok(command, expected).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    @OEHasPackage(["edgeprov-services"])
    def test_state_is_on_the_data_partition(self):
        self.run_ok("findmnt --target /var/lib/edgeprov --mountpoint /var/lib/edgeprov")
        self.run_ok("test $(stat -c %U /var/lib/edgeprov) = edgeprov")

    @OETestDepends(["edgeprov.EdgeprovTest.test_state_is_on_the_data_partition"])
    def test_tpm_is_there_for_the_service_user(self):
        self.run_ok(AS_USER + "test -r /dev/tpmrm0 -a -w /dev/tpmrm0")

    @OETestDepends(["edgeprov.EdgeprovTest.test_tpm_is_there_for_the_service_user"])
    def test_boot_check_passed_and_models_are_the_baked_ones(self):
        self.run_ok("systemctl is-active edgeprov-boot-check.service edgeprov-models.target")
        baked = json.loads(self.run_ok("cat /usr/share/edgeprov/models.json"))["models"]
        status = self.run_ok(AS_USER + "edgeprov status --json")
        for slot, model in baked.items():
            self.assertIn(model["digest"], status, msg="slot %s" % slot)

    @OETestDepends(["edgeprov.EdgeprovTest.test_boot_check_passed_and_models_are_the_baked_ones"])
    def test_a_tampered_model_is_refused(self):
        config = COPY + "/edgeprov.toml"
        self.run_ok("rm -rf {c} && mkdir -p {c}/run {c}/state && cp -r {m} {c}/models".format(c=COPY, m=MODELS))
        self.addCleanup(self.target.run, "rm -rf " + COPY)
        change = (
            "largest=$(ls -S {c}/models/blobs/sha256/* | head -n 1) && chmod u+w $largest && "
            "printf X | dd of=$largest bs=1 seek=100 conv=notrunc"
        )
        self.run_ok(change.format(c=COPY))
        lines = [
            "[device]", 'serial = "test"', 'models_dir = "%s/models"' % COPY, 'state_dir = "%s/state"' % COPY,
            'run_dir = "%s/run"' % COPY, "[trust]", 'dir = "/usr/lib/edgeprov/trust.d"',
        ]
        self.run_ok("printf '%s\\n' {} > {} && chown -R edgeprov:edgeprov {}".format(
            " ".join("'%s'" % line for line in lines), config, COPY))
        status, output = self.target.run("%s env EDGEPROV_CONFIG=%s edgeprov boot-check" % (AS_USER, config))
        self.assertTrue(10 <= status <= 19, msg="exit status %s\n%s" % (status, output))

    @OETestDepends(["edgeprov.EdgeprovTest.test_a_tampered_model_is_refused"])
    def test_records_are_sealed_with_the_tpm(self):
        self.target.run(AS_USER + "edgeprov identity create")
        self.run_ok("cat > /run/edgeprov-records.py <<'EOF'\n%sEOF" % PROGRAM)
        self.addCleanup(self.target.run, "rm -f /run/edgeprov-records.py")
        self.run_ok(AS_USER + "python3 /run/edgeprov-records.py")
        status, output = self.target.run(AS_USER + "edgeprov seal --json")
        if status == NO_IDENTITY:
            self.skipTest("the device is not enrolled; records wait in the spool: " + output)
        self.assertEqual(status, 0, msg=output)

    @OETestDepends(["edgeprov.EdgeprovTest.test_records_are_sealed_with_the_tpm"])
    def test_upload_or_export_takes_the_kits_away(self):
        target = COPY + "-stick"
        self.addCleanup(self.target.run, "rm -rf " + target)
        self.run_ok("install -d -o edgeprov -g edgeprov " + target)
        self.run_ok(AS_USER + "edgeprov export " + target)
        self.run_ok("test -s %s/index.json" % target)

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    @OEHasPackage(["edgeprov-services"])
    def test_a_technician_may_ask_for_an_upload(self):
        self.run_ok("systemctl is-active edgeprov-upload.path edgeprov-upload.timer edgeprov-seal.timer")
        self.run_ok(AS_USER + "touch /run/edgeprov/trigger/upload")

    @OETestDepends(["ssh.SSHTest.test_ssh"])
    @OEHasPackage(["edgeprov-services"])
    def test_doctor_finds_no_fault_in_the_image(self):
        findings = self.objects(AS_USER + "edgeprov doctor --json || true")
        for finding in findings:
            text = json.dumps(finding)
            self.assertNotIn("Traceback", text)
            self.assertNotIn('"RuntimeMissing"', text, msg="PROVENANCE_RUNTIME installs no interpreter: " + text)
