# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Try a verified model in a child process: load it, and compare its known answer where it has one.

An interpreter can die of a model that is genuine and still wrong for it. It then dies in the child,
and the parent keeps the model that ran before. The child reads the model itself, with the same
checks as everyone, so no unchecked byte crosses a pipe.

    python -m edgeprov.device.selftest      one JSON object on stdin, one on stdout
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeprov import errors
from edgeprov.errors import EdgeprovError, ModelCrashed, SelfTestFailed

if TYPE_CHECKING:
    from edgeprov.config import RuntimeConfig
    from edgeprov.device.model_store import StoredModel
    from edgeprov.device.runtime import InterpreterEngine
    from edgeprov.formats.modelkit import SelfTest

_TIMEOUT_S: Final = 120.0
_ERROR_BYTES: Final = 400


def verify_model_runs(model: StoredModel, runtime: RuntimeConfig) -> dict[str, Any]:
    """Load and self-test the model in a child process.

    Returns:
        ``runtime``, ``version``, ``selftest`` (``passed`` or ``none``), ``inputs`` and ``outputs``
        as text.

    Raises:
        ModelCrashed: The child died or did not end in time.
        SelfTestFailed: Another answer came out.
        FormatError: The structure of the model file is broken; no interpreter saw it.
        ModelRuntimeError: The interpreter refused the model.
    """
    request = {
        "layout": str(model.layout.root),
        "read_only": model.source == "image",
        "digest": str(model.manifest.digest),
        "source": model.source,
        "runtime": runtime.name,
        "threads": runtime.threads,
    }
    try:
        child = subprocess.run(
            [sys.executable, "-m", "edgeprov.device.selftest"],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelCrashed(f"the model's trial run did not end within {_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise ModelCrashed(f"the trial run could not be started: {error.strerror}") from error
    answer = _parse_answer(child.stdout)
    if child.returncode != 0 or answer is None:
        how = f"by signal {-child.returncode}" if child.returncode < 0 else f"with status {child.returncode}"
        reason = child.stderr[-_ERROR_BYTES:].decode("utf-8", "replace").strip().splitlines()
        raise ModelCrashed(f"the model's trial run died {how}" + (f": {reason[-1]}" if reason else ""))
    if "error" in answer:
        raise _rebuild(answer)
    return answer


def _parse_answer(stdout: bytes) -> dict[str, Any] | None:
    try:
        answer = json.loads(stdout)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _rebuild(answer: dict[str, Any]) -> EdgeprovError:
    kind = getattr(errors, str(answer["error"]), None)
    if not (isinstance(kind, type) and issubclass(kind, EdgeprovError)) or kind is errors.EvidenceInvalid:
        kind = ModelCrashed
    return kind(str(answer.get("message")), advice=str(answer.get("advice")))


def _child() -> int:
    import resource

    # A crash here is an answer, not an incident: no core file of a medical model on the disk.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    request = json.loads(sys.stdin.buffer.read())
    try:
        answer = _try_model(request)
    except EdgeprovError as error:
        answer = {"error": type(error).__name__, "message": error.message, "advice": error.advice}
    sys.stdout.write(json.dumps(answer))
    return 0


def _try_model(request: dict[str, Any]) -> dict[str, Any]:
    from edgeprov.device.flatbuffer import verify_flatbuffer
    from edgeprov.device.model_store import load_model, load_weights
    from edgeprov.device.runtime import InterpreterEngine
    from edgeprov.formats.digest import parse_digest
    from edgeprov.store.layout import Layout

    layout = Layout.open(Path(request["layout"]), read_only=True)
    model = load_model(layout, parse_digest(request["digest"]), request["source"])
    weights = load_weights(model)
    verify_flatbuffer(weights)
    engine = InterpreterEngine(weights, name=request["runtime"], threads=request["threads"])
    if model.kit.selftest is not None:
        _verify_answer(engine, model.kit.selftest)
    else:
        # Without a known answer at least one invocation on zeros shows that the model runs at all.
        engine.invoke(engine.zeros())
    return {
        "runtime": engine.info.name,
        "version": engine.info.version,
        "selftest": "none" if model.kit.selftest is None else "passed",
        "inputs": [f"{item.name} {item.dtype}{list(item.shape)}" for item in engine.inputs],
        "outputs": [f"{item.name} {item.dtype}{list(item.shape)}" for item in engine.outputs],
    }


def _verify_answer(engine: InterpreterEngine, test: SelfTest) -> None:
    outputs = engine.invoke(engine.from_bytes(test.inputs))
    difference = engine.largest_difference(outputs, test.outputs)
    if difference > test.tolerance:
        raise SelfTestFailed(f"the model's known answer is off by {difference:g}, more than {test.tolerance:g}")


if __name__ == "__main__":
    raise SystemExit(_child())
