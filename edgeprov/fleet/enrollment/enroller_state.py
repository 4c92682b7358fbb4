# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The enroller's own folder: challenges that wait for their answer, nonces that were used, and the next bin.

It never goes to a device: whoever reads a challenge's secret can answer it without the TPM. Every
challenge is for one request, for an hour, and for one answer.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
from pathlib import Path
from typing import Final

from edgeprov.errors import EnrollmentRefused, FormatError, NotStored, StoreError, UsageError
from edgeprov.fleet.enrollment import credential
from edgeprov.fleet.enrollment.request import Request
from edgeprov.formats.b64 import b64, get_b64
from edgeprov.formats.jsonx import JsonObject, encode_json, get_int, get_str, parse_json_object
from edgeprov.formats.rfc3339 import parse_rfc3339, rfc3339
from edgeprov.limits import LIMITS
from edgeprov.store.atomic import load_bytes, make_dirs, save_bytes
from edgeprov.store.lock import lock

CHALLENGE_LIFETIME: Final = dt.timedelta(hours=1)
CHALLENGE_TYPE: Final = "edgeprov.credential-challenge"
_SECRET_BYTES: Final = 32
_RANDOM_BYTES: Final = 96
_AGAIN: Final = "Run enroll without --response: it writes a new challenge for this request."


class EnrollerState:
    """One folder, mode 0700; several enrollers may use it at once."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it is missing.

        Raises:
            StoreError: It cannot be made.
        """
        self.folder = folder
        for name in ("challenges", "nonces"):
            make_dirs(folder / name, 0o700)
        with contextlib.suppress(OSError):
            folder.chmod(0o700)

    def verify_apart(self, output: Path) -> None:
        """The folder is not the one that the answer goes to, which may be the stick for the device.

        Raises:
            UsageError: It is.
        """
        place = output if output.is_dir() else output.parent
        if self.folder.resolve() == place.resolve() or self.folder.resolve() in place.resolve().parents:
            raise UsageError(
                f"{output} lies in {self.folder}, where the secrets of challenges wait",
                advice="Write the answer elsewhere, or name another folder with --state.",
            )

    # -- challenges ------------------------------------------------------------------------------

    def make_challenge(self, request: Request, now: dt.datetime) -> JsonObject:
        """The credential challenge, which only the TPM with this EK and this AK can answer.

        An older one for the same request no longer counts.

        Args:
            request: Decided to be ``activated``.
            now: The enroller's clock.

        Returns:
            The challenge file for the device.

        Raises:
            StoreError: The secret cannot be kept.
        """
        if request.ek_public is None:
            raise EnrollmentRefused("the TPM has no endorsement key to challenge")
        random = os.urandom(_RANDOM_BYTES)
        secret = random[:_SECRET_BYTES]
        ek = credential.parse_ek_public(request.ek_public)
        blob, encrypted = credential.make_credential(ek, request.ak.name, secret, random[_SECRET_BYTES:])
        expires = rfc3339(now + CHALLENGE_LIFETIME)
        kept = {"v": 1, "device": request.device, "secret": b64(secret), "expires": expires}
        save_bytes(self._challenge(request), encode_json(kept))
        return {
            "type": CHALLENGE_TYPE, "v": 1, "device": request.device, "blob": b64(blob), "secret": b64(encrypted),
            "expires": expires,
        }  # fmt: skip

    def take_secret(self, request: Request, now: dt.datetime) -> bytes:
        """The secret of the challenge for this very request; it is gone afterwards, right or wrong.

        Raises:
            EnrollmentRefused: None was made for this request, it was used, or it expired.
            StoreError: The folder cannot be read.
        """
        path = self._challenge(request)
        used = path.with_suffix(f".{os.getpid()}")
        try:
            path.rename(used)  # of two answers at once, one finds it
        except FileNotFoundError:
            raise EnrollmentRefused(
                "no challenge waits for this very request: it was used, or the request is another one", advice=_AGAIN
            ) from None
        except OSError as error:
            raise StoreError(f"{path}: {error.strerror}") from error
        try:
            kept = parse_json_object(load_bytes(used, max_bytes=LIMITS.config_file_bytes, what=str(used)), "challenge")
            secret, expires = get_b64(kept, "secret", "challenge"), parse_rfc3339(get_str(kept, "expires", "challenge"))
        except FormatError as error:
            raise EnrollmentRefused(f"the stored challenge is damaged: {error.message}", advice=_AGAIN) from error
        finally:
            used.unlink(missing_ok=True)
        if now > expires:
            raise EnrollmentRefused(f"the challenge expired at {rfc3339(expires)}", advice=_AGAIN)
        return secret

    def remove_expired(self, now: dt.datetime) -> None:
        """Delete challenges whose time is over."""
        for path in (self.folder / "challenges").glob("*.json"):
            with contextlib.suppress(FormatError, NotStored, StoreError):
                kept = parse_json_object(
                    load_bytes(path, max_bytes=LIMITS.config_file_bytes, what=str(path)), path.name
                )
                if now > parse_rfc3339(get_str(kept, "expires", path.name)):
                    path.unlink(missing_ok=True)

    def _challenge(self, request: Request) -> Path:
        return self.folder / "challenges" / f"{request.binding}.json"

    # -- nonces ----------------------------------------------------------------------------------

    def use_nonce(self, request: Request, now: dt.datetime) -> None:
        """One nonce is for one enrollment; a renewal repeats it.

        Raises:
            EnrollmentRefused: It was used for another enrollment.
            StoreError: The folder cannot be written.
        """
        path = self.folder / "nonces" / f"{hashlib.sha256(request.nonce).hexdigest()}.json"
        wanted = request.enrollment.hex()
        with self._lock():
            try:
                raw = load_bytes(path, max_bytes=LIMITS.config_file_bytes, what=str(path))
            except NotStored:
                use = {"v": 1, "enrollment": wanted, "device": request.device, "at": rfc3339(now)}
                save_bytes(path, encode_json(use))
                return
        try:
            known = parse_json_object(raw, "used nonce")
            if get_str(known, "enrollment", "used nonce") == wanted:
                return
            device, at = get_str(known, "device", "used nonce"), get_str(known, "at", "used nonce")
        except FormatError as error:
            raise StoreError(f"{path} is damaged: {error.message}") from error
        raise EnrollmentRefused(
            f"this nonce was used on {at} for another enrollment, of {device}",
            advice="Give each device a nonce of its own: edgeprov identity csr --nonce $(openssl rand -hex 16).",
        )

    # -- bins ------------------------------------------------------------------------------------

    def next_bin(self, bins: int) -> str:
        """The bins 0 to ``bins`` - 1 in turn, as digits of equal length.

        Raises:
            StoreError: The folder cannot be written.
        """
        path = self.folder / "bin.json"
        with self._lock():
            try:
                kept = parse_json_object(load_bytes(path, max_bytes=LIMITS.config_file_bytes, what=str(path)), "bin")
                number = get_int(kept, "next", "bin")
            except NotStored:
                number = 0
            except FormatError as error:
                raise StoreError(f"{path} is damaged: {error.message}") from error
            save_bytes(path, encode_json({"v": 1, "next": number + 1}))
        return f"{number % bins:0{len(str(bins - 1))}d}"

    def _lock(self) -> contextlib.AbstractContextManager[None]:
        return lock(self.folder / "lock", wait=True)
