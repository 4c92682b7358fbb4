# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The acts of the world: how often each is chosen, and from which values its arguments come.

A value that stands several times is chosen more often. The seeded generator and the state machine of hypothesis draw
from the same lists.
"""

from __future__ import annotations

from typing import Any, Final

from tests.machine.values import DAY

Act = tuple[Any, ...]
Choices = tuple[Any, ...]

DEVICES: Final = 4
_QUARTER: Final = DAY // 4
_WHICH: Final = (0, 0, 0, 1, 1, 2, 2, 3)
_SLOT: Final = ("default", "default", "b")
_DESK: Final = (0, 1, 2)
_SMALL: Final = tuple(range(9))
_PICK: Final = tuple(range(40))

HONEST_CUTS: Final[Choices] = (None,) * 160 + tuple(
    (step, how) for step in range(9) for how in ("kill", "power", "full")
)
HOSTILE_CUTS: Final[Choices] = (*HONEST_CUTS[80:], *((step, "copy") for step in range(9)))
HOW: Final = ("clean", "kill", "power")

HONEST: Final[dict[str, float]] = {
    "wait": 8.0, "enroll": 1.5, "roster": 1.5, "up": 5.0, "down": 3.0, "switch": 1.2, "record": 15.0, "label": 1.5, "seal": 9.0,
    "upload": 8.0, "deliver": 3.0, "deliver_all": 4.0, "sync": 5.0, "renew": 0.8, "rename": 0.4, "receipt": 1.0, "retire": 0.4,
    "board": 0.25, "golden": 0.15, "full": 1.2, "clock": 0.7, "dead": 0.5, "nonce": 0.6, "duplicate": 0.8, "mirror": 0.5,
    "misplace": 0.4, "stamp": 0.5, "junk": 2.0, "foreign_model": 0.2, "desk_loss": 0.4, "desk_clock": 0.3, "trust": 0.2, "break": 0.3,
}  # fmt: skip
HOSTILE: Final[dict[str, float]] = HONEST | {
    "copy": 2.5, "put_back": 1.8, "delete_segment": 0.8, "truncate": 0.8, "rot": 0.5, "wipe": 0.5, "withhold": 1.8, "strip": 0.6,
    "delete": 0.6, "hide_day": 0.4, "deny": 0.4, "board": 0.4, "golden": 0.4,
}  # fmt: skip


def arguments(name: str, *, honest: bool) -> tuple[Choices, ...]:
    """The values that each argument of an act is chosen from."""
    cuts = HONEST_CUTS if honest else HOSTILE_CUTS
    rosters = ("new",) if honest else ("new",) * 15 + ("fork", "lacks")
    table: dict[str, tuple[Choices, ...]] = {
        "wait": ((1, 2, 3),),
        "up": (_WHICH, cuts),
        "down": (_WHICH, HOW),
        "switch": (_WHICH, ("default", "b"), ("A",) * 6 + ("B",) * 6 + ("C",)),
        "record": (_WHICH, _SLOT, ("u", "u", "v"), (0, 0, 0, 1), (1, 2, 3), cuts),
        "label": (_WHICH, _PICK, ("yes", "no", None)),
        "seal": (_WHICH, cuts),
        "full": (_WHICH, ("", "stop", "discard", "discard")),
        "clock": (_WHICH, tuple(days * _QUARTER for days in (-20, -8, 0, 0, 6, 15))),
        "dead": (_WHICH, (0, 1)),
        "rename": (_WHICH, ("n0", "n1", "n2", "n3")),
        "golden": (_WHICH, _WHICH),
        "put_back": (_WHICH, _SMALL, (0, 1)),
        "delete_segment": (_WHICH, _SMALL, (0, 1)),
        "truncate": (_WHICH, _SMALL),
        "rot": (_WHICH, _SMALL, ("part", "all")),
        "deliver": (_SMALL,),
        "withhold": (_SMALL,),
        "strip": (_SMALL,),
        "duplicate": (_SMALL,),
        "misplace": (_PICK,),
        "mirror": ((0, 1),),
        "delete": (("main", "main", "mirror"), _PICK),
        "break": (_PICK,),
        "junk": (_PICK, ("noise", "signature", "copy", "copy", "copy")),
        "roster": (rosters,),
        "sync": (_DESK, ("ok", "ok", "ok", "ok", "fail", "part", "bare")),
        "desk_loss": ((0, 1), (0, 1)),
        "desk_clock": ((0, 1), tuple(days * _QUARTER for days in (-10, 0, 0, 10))),
        "trust": ((1, 2),),
        "hide_day": ((0, 1), _SMALL),
        "deny": (("model", "kit", "device", "certificate"), _PICK, (None, 0, DAY)),
        "deliver_all": (),
        "stamp": (),
        "foreign_model": (),
    }
    return table.get(name, (_WHICH,))
