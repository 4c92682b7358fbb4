# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Every error a user can meet: one class, one exit code, one sentence of advice.

Third-party exceptions are translated at the module that owns the package. A code is never reused;
code ranges are those of the table in README.md, which a test compares with these classes.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_DONE = 0
EXIT_QUEUED = 100
"""Done, but work remains queued (an upload that waits for a link)."""


class EdgeprovError(Exception):
    """Base of all errors that are shown to a user.

    Attributes:
        exit_code: Process exit status; also in ``--json`` output.
        retryable: True when the same call may succeed later without a change.
        message_id: journald MESSAGE_ID of the class (128 bit, hex).
        advice: What to do next, one sentence; empty where the message says it.
    """

    exit_code: ClassVar[int] = 1
    retryable: ClassVar[bool] = False
    message_id: ClassVar[str] = "4ae5d1b8c3374e6fa1f0c6de0a7f0001"
    default_advice: ClassVar[str] = "This is a bug in edgeprov; please report it with the journal."

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        """Keep one line of message and, where the raiser knows better, its own advice."""
        super().__init__(message)
        self.message = message
        self.advice = self.default_advice if advice is None else advice
        if self.advice:
            # An application's own traceback ends with it, as the command line's message does.
            self.add_note(self.advice)

    def __reduce__(self) -> tuple[object, ...]:
        """An error comes back from a worker process as it was, whatever its constructor takes."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[EdgeprovError], args: tuple[object, ...], state: dict[str, object]) -> EdgeprovError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(EdgeprovError):
    """The command line or a call's arguments make no sense."""

    exit_code = 2
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0002"
    default_advice = "See --help of the command."


class ConfigError(EdgeprovError):
    """A configuration file is malformed, or names an unknown key or value."""

    exit_code = 3
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0003"
    default_advice = "Correct the named key in the named file."


class FormatError(EdgeprovError):
    """Bytes do not follow FORMAT.md or the standard that they claim to follow."""

    exit_code = 4
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0004"
    default_advice = "The input is damaged or was written by something else; get it again from its source."


class LimitError(FormatError):
    """An input is larger, deeper or longer than limits.py allows."""

    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0005"
    default_advice = "Inputs of this size are refused on purpose; FORMAT.md lists the bounds."


class VerificationError(EdgeprovError):
    """A check of authenticity failed. Permanent: retrying cannot help."""

    exit_code = 10
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0010"
    default_advice = "Do not use this artifact; keep it and tell whoever published it."


class DigestMismatch(VerificationError):
    """Bytes do not have the digest or the size under which they were asked for."""

    exit_code = 11
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0011"


class SignatureInvalid(VerificationError):
    """No signature, or none that fits the bytes."""

    exit_code = 12
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0012"


class SignerUntrusted(VerificationError):
    """The signature fits, but no trust anchor and identity of the policy vouch for the signer."""

    exit_code = 13
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0013"
    default_advice = "If this signer should be trusted, add its anchor and identity to trust.d."


class SubjectMismatch(VerificationError):
    """A valid signature or statement about another artifact."""

    exit_code = 14
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0014"


class EvidenceInvalid(VerificationError):
    """TPM evidence fails one of the ten numbered steps (FORMAT.md, "Verification")."""

    exit_code = 15
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0015"

    def __init__(self, message: str, *, step: int, advice: str | None = None) -> None:
        """Name the step (1 to 10) that refused."""
        super().__init__(f"step {step}: {message}", advice=advice)
        self.step = step


class Rollback(VerificationError):
    """The model's securityVersion lies below the floor of this device."""

    exit_code = 16
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0016"
    default_advice = "Install a model version at or above the floor that `edgeprov status` shows."


class RosterInvalid(VerificationError):
    """The roster expired, takes something back, or is not the one that was published."""

    exit_code = 17
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0017"
    default_advice = "Ask who publishes the roster; never delete or publish a version to make this go away."


class EnrollmentRefused(VerificationError):
    """A device could not prove that its keys live in the TPM it names."""

    exit_code = 18
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0018"
    default_advice = "Repeat the enrollment on the device itself; never sign this request by hand."


class PolicyDenied(VerificationError):
    """Everything is genuine, but the trust policy does not allow it (an empty policy denies)."""

    exit_code = 19
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0019"
    default_advice = "See the files in trust.d: what is not allowed there is refused."


class TpmError(EdgeprovError):
    """The TPM answered with an error."""

    exit_code = 20
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0020"
    default_advice = "Try again, and after a reboot if it stays; records stay safe in the spool until the TPM answers."


class TpmUnavailable(TpmError):
    """No TPM at the configured place, or it went away."""

    exit_code = 21
    retryable = True
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0021"
    default_advice = (
        "Check that the kernel shows a TPM (ls /dev/tpmrm0), that tpm.tcti names it, and that this user is in the "
        "group tss; records stay safe in the spool until it answers."
    )


class TpmLockout(TpmError):
    """The TPM is in dictionary-attack lockout."""

    exit_code = 22
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0022"
    default_advice = "Wait for the TPM's recovery time or reset the lockout with the vendor's authorisation."


class TpmBusy(TpmError):
    """The TPM has no free slot or asks to come back later."""

    exit_code = 23
    retryable = True
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0023"
    default_advice = "Another process uses the TPM; try again."


class IdentityError(TpmError):
    """No identity on this device, or the TPM does not hold the keys of the stored one."""

    exit_code = 24
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0024"
    default_advice = "Run `edgeprov identity create`; after a changed or cleared TPM the device must be enrolled again."


class StoreError(EdgeprovError):
    """The local disk refused a read or a write."""

    exit_code = 34
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0034"
    default_advice = "Check that the state folder is mounted, writable and healthy."


class StoreFull(StoreError):
    """No space or quota left; nothing that was acknowledged is lost."""

    exit_code = 30
    retryable = True
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0030"
    default_advice = "Run `edgeprov upload` or `edgeprov export` to free space."


class StoreCorrupt(StoreError):
    """Stored state was damaged; it was moved to quarantine, not deleted."""

    exit_code = 31
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0031"
    default_advice = "The damaged files are in the quarantine folder; keep them for analysis."


class StoreBusy(StoreError):
    """Another process holds the lock."""

    exit_code = 32
    retryable = True
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0032"
    default_advice = "Wait for the other edgeprov process to end."


class StateNewer(StoreError):
    """The state folder was written by a newer version of edgeprov."""

    exit_code = 33
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0033"
    default_advice = "Update edgeprov; the state was left untouched."


class NotStored(StoreError):
    """The named artifact or file is not in the local store."""

    exit_code = 35
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0035"
    default_advice = "Check the name, digest or path; on a device `edgeprov model list` shows what is here."


class RegistryError(EdgeprovError):
    """The registry or the way to it failed."""

    exit_code = 40
    retryable = True
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0040"
    default_advice = "Check the link and the registry's name; what waits in the outbox stays there."

    def __init__(
        self,
        message: str,
        *,
        advice: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        code: str = "",
    ) -> None:
        """Keep HTTP status, the registry's own error code, and the seconds it asked to wait, where there are any."""
        super().__init__(message, advice=advice)
        self.status = status
        self.retry_after_s = retry_after_s
        self.code = code


class RegistryDenied(RegistryError):
    """The registry refused the credentials or the operation."""

    exit_code = 41
    retryable = False
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0041"
    default_advice = "Check the credentials file and the rights of this account."


class LoginRefused(RegistryDenied):
    """The registry or its token server refused the login; nothing more is asked of it in this run."""

    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0045"


class RegistryNotFound(RegistryError):
    """The registry does not hold the named artifact."""

    exit_code = 42
    retryable = False
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0042"
    default_advice = "Check repository and digest."


class RegistryConflict(RegistryError):
    """A tag that must be ours names another digest; it was not overwritten."""

    exit_code = 43
    retryable = False
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0043"
    default_advice = "Someone else wrote this device's tag: two devices may share one identity."


class RegistryProtocolError(RegistryError):
    """The answer is not what an OCI registry may give; the name may not be a registry's."""

    exit_code = 44
    retryable = False
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0044"
    default_advice = "Check that the name is an OCI registry, and whether a proxy or captive portal answers for it."


class ModelRuntimeError(EdgeprovError):
    """The interpreter failed on a verified model."""

    exit_code = 50
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0050"
    default_advice = "The model may need another runtime version; the previous model stays active."


class ModelCrashed(ModelRuntimeError):
    """The child process that tried the model died."""

    exit_code = 51
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0051"


class TensorMismatch(ModelRuntimeError):
    """An input has another shape or dtype than the model's tensor, or values it cannot hold."""

    exit_code = 52
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0052"
    default_advice = "Compare the input with `edgeprov model show`."


class RuntimeMissing(ModelRuntimeError):
    """No usable tflite interpreter is installed."""

    exit_code = 53
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0053"
    default_advice = "Install edgeprov[device]: tflite-runtime with numpy < 2, or ai-edge-litert."


class SelfTestFailed(ModelRuntimeError):
    """The model's known answer did not come out."""

    exit_code = 54
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0054"


class ModelNotReady(ModelRuntimeError):
    """No model is active in the slot, or it has not passed the boot check of this boot."""

    exit_code = 55
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0055"
    default_advice = "Run `edgeprov model install REF@sha256:...`, then `edgeprov boot-check`."


class EngineError(EdgeprovError):
    """The machines or processes that run the fleet's work failed, or are not those of this version."""

    exit_code = 60
    retryable = True
    message_id = "4ae5d1b8c3374e6fa1f0c6de0a7f0060"
    default_advice = "Repeat the command: what is done stays done."
