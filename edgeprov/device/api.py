# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What an application uses: open the device, load the verified model, run, label.

    import edgeprov

    with edgeprov.open_device() as device:
        model = device.load_model()
        result = model.run(x)           # numpy array, dtype and shape of the model's input
        device.label(result.record, 1)  # ground truth, now or weeks later

A result is returned only after its record is in the spool: there is no inference without provenance.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from edgeprov.config import load_config
from edgeprov.device.boot_stamp import verified_model
from edgeprov.device.context import Context
from edgeprov.device.labels import LabelValue, add_labels, parse_record
from edgeprov.device.model_store import StoredModel, find_model, load_weights
from edgeprov.device.recorder import Recorder
from edgeprov.device.series_state import remember_model
from edgeprov.device.trial import begin_load
from edgeprov.errors import ModelNotReady
from edgeprov.formats.segment import Tensor
from edgeprov.formats.shapes import has_varying

if TYPE_CHECKING:
    from edgeprov.device.runtime import InterpreterEngine
    from edgeprov.store.state import State


class RecordId(NamedTuple):
    """Names one record of this device: slot and number."""

    slot: str
    n: int

    def __str__(self) -> str:
        return f"{self.slot}:{self.n}"


class Result(NamedTuple):
    """What one inference gave. A named tuple: made on every inference, and cheaper than a dataclass.

    Attributes:
        outputs: One numpy array per output tensor, dtype and shape of the tensor.
        record: Names its record, for labels.
        duration_ns: Time in the interpreter.
    """

    outputs: tuple[Any, ...]
    record: RecordId
    duration_ns: int


class Model:
    """A verified model with its recorder. Thread-safe: one inference at a time."""

    def __init__(self, stored: StoredModel, engine: InterpreterEngine, recorder: Recorder) -> None:
        """For Device.load_model only."""
        self._engine = engine
        self._recorder = recorder
        # One lock for interpreter and recorder: a rotation waits for the inference that is running.
        self._lock = recorder.lock
        self._captures = recorder.captures
        self._varies = has_varying(engine.outputs)
        self.digest = stored.manifest.digest
        self.name = stored.kit.name
        self.version = stored.kit.version
        self.slot = recorder.slot

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Name, shape, dtype and quantisation of each input tensor."""
        return self._engine.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """Name, shape (-1 where it varies from run to run), dtype and quantisation of each output tensor."""
        return self._engine.outputs

    def run(self, *inputs: Any, quantise: bool = False, params: Mapping[str, Any] | None = None) -> Result:
        """Run the model once and record it.

        Args:
            inputs: One numpy array per input tensor, dtype and shape exactly those of the tensor.
            quantise: Take float arrays for a quantised model, and quantise them with the tensor's
                scale and zero point. NaN and infinity are refused.
            params: Inference parameters of this record that differ from the model's.

        Raises:
            TensorMismatch: Shape, dtype or values do not fit; nothing was run or recorded.
            ModelRuntimeError: The interpreter failed; nothing was recorded.
            StoreFull: No room for the record (``record.full = "stop"``).
            ModelNotReady: Another model was activated in this slot: load it.
        """
        engine = self._engine
        if quantise:
            inputs = engine.quantise(inputs)
        arrays = engine.check(inputs)
        with self._lock:
            started = time.perf_counter_ns()
            outputs = engine.invoke(arrays)
            duration_ns = time.perf_counter_ns() - started
            n = self._recorder.append(
                [array.tobytes() for array in outputs],
                duration_ns=duration_ns,
                inputs=[memoryview(array).cast("B") for array in arrays] if self._captures else (),
                params=params,
                shapes=engine.actual_shapes(outputs) if self._varies else None,
            )
        return Result(outputs, RecordId(self.slot, n), duration_ns)

    @property
    def next_n(self) -> int:
        """Number that the next record gets."""
        return self._recorder.next_n

    def dequantise(self, result: Result) -> tuple[Any, ...]:
        """Real values of a result's outputs (float32)."""
        return self._engine.dequantise(result.outputs)

    def sync(self) -> None:
        """Make every result so far survive a power cut, whatever ``record.sync`` says.

        Raises:
            StoreError: The disk failed.
        """
        self._recorder.sync()

    def close(self) -> None:
        """End recording in this slot."""
        self._recorder.close()


class Device:
    """An open device; a context manager."""

    def __init__(self, context: Context) -> None:
        """Open the state folder. Applications call open_device()."""
        self._context = context
        self._state: State = context.state()
        self._models: dict[str, Model] = {}

    def load_model(self, slot: str | None = None, *, params: Mapping[str, Any] | None = None) -> Model:
        """Load the model that passed this boot's check, from the very bytes that are hashed here.

        Args:
            slot: None takes the first configured slot.
            params: Inference parameters that all records of this model share.

        Raises:
            ModelNotReady: No boot check, or it refused the model, or the slot is empty.
            DigestMismatch: The model changed since the boot check; no interpreter saw it.
            StoreBusy: Another process records in this slot.
            RuntimeMissing: No interpreter is installed.
            TpmError: The TPM failed; nothing runs without evidence.
        """
        from edgeprov.device.flatbuffer import verify_flatbuffer
        from edgeprov.device.runtime import InterpreterEngine

        slot = slot or self._context.config.device.slots[0]
        if slot in self._models:
            self._models.pop(slot).close()
        digest = verified_model(self._context, slot)
        begin_load(self._context, self._state, slot)
        active = self._state.active(slot)
        if active is not None and active.model != digest:
            raise ModelNotReady(
                f"slot {slot}: model {active.model} is active, and the boot check was of {digest}",
                advice="Run `edgeprov boot-check`.",
            )
        stored = find_model(self._context, self._state, digest)
        remember_model(self._state, stored.manifest)
        weights = load_weights(stored)
        verify_flatbuffer(weights)
        runtime = self._context.config.runtime
        engine = InterpreterEngine(weights, name=runtime.name, threads=runtime.threads)
        recorder = Recorder(
            self._context,
            self._state,
            slot=slot,
            model=digest,
            inputs=engine.inputs,
            outputs=engine.outputs,
            runtime=engine.info,
            params=params,
        )
        self._models[slot] = model = Model(stored, engine, recorder)
        return model

    def label(self, record: RecordId | str, value: LabelValue, *, source: str = "application") -> None:
        """Add ground truth to one record; durable when this returns.

        Args:
            record: From a Result, or as text: ``SLOT:N``.
            value: Bool, int, float, str, bytes, or a list of these; None withdraws the record's labels.
            source: Who says so.

        Raises:
            UsageError: No such record.
            FormatError: A value that a label cannot hold.
            StoreError: The disk failed.
        """
        self.label_many([(record, value)], source=source)

    def label_many(self, labels: Iterable[tuple[RecordId | str, LabelValue]], *, source: str = "application") -> int:
        """As label, for many at once; returns how many."""
        slots: dict[str, list[tuple[int, LabelValue]]] = {}
        for item, value in labels:
            record = record_id(item, self._context.config.device.slots[0]) if isinstance(item, str) else item
            slots.setdefault(record.slot, []).append((record.n, value))
        count = 0
        for slot, items in slots.items():
            next_n = self._models[slot].next_n if slot in self._models else None
            count += add_labels(self._state, slot, items, source=source, next_n=next_n)
        return count

    def close(self) -> None:
        """End recording in all slots. A second call does nothing."""
        while self._models:
            self._models.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_device(config: Path | str | None = None) -> Device:
    """Open this device.

    Args:
        config: One configuration file that replaces the search path; None follows EDGEPROV_CONFIG
            and the folders of config.py.

    Raises:
        ConfigError: The configuration is wrong.
        StateNewer: The state was written by a newer version.
        StoreError: The state folder cannot be used.
    """
    environment = None if config is None else {"EDGEPROV_CONFIG": str(config)}
    return Device(Context(load_config(environment)))


def record_id(text: str, slot: str) -> RecordId:
    """Read ``N`` or ``SLOT:N``. Errors as in labels.parse_record."""
    return RecordId(*parse_record(text, slot))


__all__ = ["Device", "Model", "RecordId", "Result", "open_device", "record_id"]
