# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Models: results count for a model only where a trusted publisher vouches for it.

Spec: FORMAT.md part "Conclusion", R-con-70 and R-con-71.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgeprov.fleet.conclusion.fleet_report import Reason
from edgeprov.fleet.conclusion.merged import Merged
from edgeprov.fleet.conclusion.types import KitFacts, ModelFacts
from edgeprov.fleet.conclusion.view import Case, View, rule


def choose_models(view: View, models: Merged[ModelFacts]) -> None:
    """R-con-70: a model is vouched for when it is verified and a signature of the role publisher counts."""
    gate = view.gate
    for digest, model in models.by_digest.items():
        if not gate.accepts(model.signatures, "publisher"):
            continue
        denied = gate.denied("model", "sha256:" + digest.hex(), gate.oldest(model.signatures))
        if model.checks.state == "verified" and not denied:
            view.models[digest] = model
        else:
            view.odd_models[digest] = model


@rule("R-con-71")
def model_not_vouched(case: Case, view: View) -> Iterator[Reason]:
    """A kit with results that are asked for, of a model that nobody vouches for, is a doubt."""
    asked = view.question.model
    found: dict[bytes, list[KitFacts]] = {}
    for kit in case.kits:
        if kit.model not in view.models and kit.digest in case.inside and asked in (None, kit.model):
            found.setdefault(kit.model, []).append(kit)
    for model, kits in sorted(found.items()):
        odd = view.odd_models.get(model)
        waits = odd is not None and odd.checks.state == "not-judged"
        why = "no trusted publisher vouches for" if odd is None else "the trust policy denies"
        if odd is not None and odd.checks.state != "verified":
            why = "could not be judged:" if waits else "refused:"
        yield case.reason(
            "model-not-judged" if waits else "model-not-vouched",
            "not-judged" if waits else "gap",
            f"{why} the model sha256:{model.hex()} of {len(kits)} kits",
            digests=(model, *sorted(kit.digest for kit in kits)),
            count=sum(kit.records for kit in kits),
        )
