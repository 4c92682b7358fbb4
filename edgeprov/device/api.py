# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""What an application uses: open the device, load the verified model, run, label.

    import edgeprov

    with edgeprov.open_device() as device:
        model = device.load_model()
        result = model.run(x)           # numpy array, dtype and shape of the model's input
        device.label(result.record, 1)  # ground truth, now or weeks later

A result is returned only after its record is in the spool: there is no inference without provenance.

An application beside the device service owns no spool, so the modules for one are imported only without a service:
they are most of what edgeprov adds to the memory of an application (`./tests/run bench service`).
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from edgeprov.config import load_config
from edgeprov.device.context import Context
from edgeprov.device.remote_recorder import RemoteRecorder
from edgeprov.device.rotation import request_sync_of_all, service_socket
from edgeprov.device.service_client import ServiceClient
from edgeprov.formats.digest import Digest, parse_digest
from edgeprov.formats.segment import Tensor
from edgeprov.formats.shapes import has_varying
from edgeprov.store.atomic import translated
from edgeprov.store.ring_writer import forked_error

if TYPE_CHECKING:
    from edgeprov.device.labels import LabelValue
    from edgeprov.device.recorder import Recorder
    from edgeprov.device.runtime import InterpreterEngine
    from edgeprov.store.state import State


_models: weakref.WeakSet[Model] = weakref.WeakSet()


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


class _About(NamedTuple):
    digest: Digest
    name: str | None
    version: str | None


class Model:
    """A verified model with its recorder. Thread-safe: one inference at a time."""

    def __init__(self, about: _About, engine: InterpreterEngine, recorder: Recorder | RemoteRecorder) -> None:
        """For Device.load_model only."""
        self._engine: InterpreterEngine | _ForkedEngine = engine
        self._recorder = recorder
        _models.add(self)
        # One lock for interpreter and recorder: a rotation waits for the inference that is running.
        self._lock = recorder.lock
        self._captures = recorder.captures
        self._varies = has_varying(engine.outputs)
        self.digest = about.digest
        self.name = about.name
        self.version = about.version
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

    def store(self) -> None:
        """Have what was recorded so far in its segment, where other processes see it. Errors as in sync()."""
        if not isinstance(self._recorder, RemoteRecorder):
            self._recorder.store()

    def close(self) -> None:
        """End recording in this slot."""
        self._recorder.close()


class _ForkedEngine:
    """Stands for the interpreter in a forked child, whose threads are not there: whatever it is asked is refused."""

    def __getattr__(self, _name: str) -> Any:
        raise forked_error()


def _in_child() -> None:
    for model in list(_models):
        model._engine = _ForkedEngine()  # noqa: SLF001


os.register_at_fork(after_in_child=_in_child)


class Device:
    """An open device; a context manager."""

    def __init__(self, context: Context) -> None:
        """Open the state folder, or find the device service. Applications call open_device()."""
        self._context = context
        self._models: dict[str, Model] = {}
        path = service_socket(context)
        with translated(path):
            self._service = path if path.is_socket() else None
        self._state: State | None = None if self._service else context.state()

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
        slot = slot or self._context.config.device.slots[0]
        if slot in self._models:
            self._models.pop(slot).close()
        if self._service is not None:
            self._models[slot] = model = _load_from_service(self._context, self._service, slot, params)
            return model
        self._models[slot] = model = _load_here(self._context, self._own_state(), slot, params)
        return model

    def _own_state(self) -> State:
        if self._state is None:
            self._state = self._context.state()
        return self._state

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
        if self._service is not None:
            return _label_by_service(self._service, slots, source)
        from edgeprov.device.labels import add_labels

        count = 0
        for slot, items in slots.items():
            if slot in self._models:
                self._models[slot].store()
            state = self._own_state()
            write_out = partial(request_sync_of_all, self._context, state.spool(slot))
            count += add_labels(state, slot, items, source=source, write_out=write_out)
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


def _load_here(context: Context, state: State, slot: str, params: Mapping[str, Any] | None) -> Model:
    """Load the model and open a session in this process, without the device service."""
    from edgeprov.device.flatbuffer import verify_flatbuffer
    from edgeprov.device.model_store import load_weights
    from edgeprov.device.recorder import Recorder
    from edgeprov.device.runtime import InterpreterEngine
    from edgeprov.device.trial import begin_load
    from edgeprov.device.verified_load import load_verified

    stored = load_verified(context, state, slot, begin=partial(begin_load, context, state))
    weights = load_weights(stored)
    verify_flatbuffer(weights)
    runtime = context.config.runtime
    engine = InterpreterEngine(weights, name=runtime.name, threads=runtime.threads)
    recorder = Recorder(
        context,
        state,
        slot=slot,
        model=stored.manifest.digest,
        inputs=engine.inputs,
        outputs=engine.outputs,
        runtime=engine.info,
        params=params,
    )
    return Model(_About(stored.manifest.digest, stored.kit.name, stored.kit.version), engine, recorder)


def _load_from_service(context: Context, path: Path, slot: str, params: Mapping[str, Any] | None) -> Model:
    """Load the model whose bytes the device service hands over, and open a session with a ring."""
    from edgeprov.device.runtime import InterpreterEngine

    client = ServiceClient(path)
    try:
        answer, weights = client.request_file(["model", slot], "model")
        about = answer[1]
        runtime = context.config.runtime
        try:
            # The memory file is sealed: these are the very bytes that the service hashed.
            engine = InterpreterEngine(f"/proc/self/fd/{weights}", name=runtime.name, threads=runtime.threads)
        finally:
            os.close(weights)
        recorder = RemoteRecorder(
            client,
            slot=slot,
            model=about["model"],
            inputs=engine.inputs,
            outputs=engine.outputs,
            runtime=engine.info,
            params=params,
        )
    except BaseException:
        client.close()
        raise
    return Model(_About(parse_digest(about["model"]), about["name"], about["version"]), engine, recorder)


def _label_by_service(path: Path, slots: Mapping[str, list[tuple[int, LabelValue]]], source: str) -> int:
    client = ServiceClient(path)
    try:
        for slot, items in slots.items():
            for n, value in items:
                client.request(["label", n, value, source, slot])
    finally:
        client.close()
    return sum(len(items) for items in slots.values())


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
    from edgeprov.device.labels import parse_record

    return RecordId(*parse_record(text, slot))


__all__ = ["Device", "Model", "RecordId", "Result", "open_device", "record_id"]
