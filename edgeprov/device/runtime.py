# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""The tflite interpreter: verified bytes in, checked arrays through it. Only importer of numpy and tflite.

tflite-runtime is tried first; ai-edge-litert is its successor where it has no wheel (Python 3.12 and
later). Outputs of the two may differ by some quantised steps, so name and version go into each
segment header. This module never reads a file: it is given the very bytes that were hashed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Final

from edgeprov._dataclass import dataclass
from edgeprov.errors import ModelRuntimeError, RuntimeMissing, TensorMismatch, UsageError
from edgeprov.formats.segment import RuntimeInfo, Tensor

_PACKAGES: Final = {"tflite-runtime": "tflite_runtime", "ai-edge-litert": "ai_edge_litert"}
_QUANTISED: Final = ("int8", "uint8", "int16")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Port:
    """One input or output of the interpreter, with what the hot path compares."""

    index: int
    tensor: Tensor
    dtype: Any
    shape: tuple[int, ...]


class InterpreterEngine:
    """A loaded model. Not thread-safe: the interpreter holds one set of tensors."""

    def __init__(self, weights: bytes | str, *, name: str = "auto", threads: int = 1) -> None:
        """Create the interpreter from bytes whose digest and structure were checked.

        Args:
            weights: The whole tflite flatbuffer; kept, because the interpreter does not copy it. Or the name of a
                sealed memory file with it, which the interpreter maps without a copy.
            name: ``auto``, ``tflite-runtime`` or ``ai-edge-litert``.
            threads: Number of interpreter threads.

        Raises:
            RuntimeMissing: No usable interpreter is installed.
            ModelRuntimeError: The interpreter refused the model.
        """
        package, module = _import(name)
        self._numpy = _numpy()
        self._weights = weights
        try:
            self._interpreter = module.Interpreter(
                **({"model_path": weights} if isinstance(weights, str) else {"model_content": weights}),
                num_threads=threads,
            )
            self._interpreter.allocate_tensors()
            inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        except (ImportError, SystemError) as error:
            # tflite-runtime imports under numpy 2 and fails only here.
            raise RuntimeMissing(f"{package} does not work with numpy {self._numpy.__version__}: {error}") from error
        except (ValueError, RuntimeError, MemoryError) as error:
            raise ModelRuntimeError(f"{package} refuses the model: {error}") from error
        self._set_tensor = self._interpreter.set_tensor
        self._get_tensor = self._interpreter.get_tensor
        self._run = self._interpreter.invoke
        # A tensor that the interpreter allocates only while it runs may have another shape each time.
        unsized = [not self._has_data(int(item["index"])) for item in outputs]
        self._inputs = tuple(self._port(item) for item in inputs)
        self._outputs = tuple(self._port(item, unsized=new) for item, new in zip(outputs, unsized, strict=True))
        self._unsized = any(unsized)
        single = len(self._inputs) == len(self._outputs) == 1 and not self._unsized
        self._single = (self._inputs[0].index, self._outputs[0].index) if single else None
        self.inputs: tuple[Tensor, ...] = tuple(port.tensor for port in self._inputs)
        self.outputs: tuple[Tensor, ...] = tuple(port.tensor for port in self._outputs)
        self.info = RuntimeInfo(name=package, version=_version(package), threads=threads, delegate="default")

    def check(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Compare arrays with the model's input tensors: count, type, dtype and shape.

        Args:
            arrays: One numpy array per input, dtype and shape exactly those of the tensor.

        Returns:
            The arrays, contiguous.

        Raises:
            TensorMismatch: Something differs; the message names tensor, expected and actual.
        """
        if len(arrays) != len(self._inputs):
            raise TensorMismatch(f"the model has {len(self._inputs)} input tensors, {len(arrays)} arrays were given")
        ndarray, contiguous = self._numpy.ndarray, True
        for array, port in zip(arrays, self._inputs, strict=True):
            if type(array) is not ndarray:
                raise TensorMismatch(f"input {port.tensor.name!r}: a {type(array).__name__}, not a numpy array")
            if array.dtype != port.dtype or array.shape != port.shape:
                raise self._mismatch(array, port)
            contiguous = contiguous and array.flags.c_contiguous
        return tuple(arrays) if contiguous else tuple(self._numpy.ascontiguousarray(array) for array in arrays)

    def quantise(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Turn float32 or float64 arrays into what the input tensors hold: round(x / scale + zero point).

        Values beyond the tensor's range are clipped to it, as the converter does. Arrays that
        already have the tensor's dtype pass unchanged, as do all arrays of a float model.

        Raises:
            TensorMismatch: NaN or infinity, which no integer can stand for, or not a float array.
        """
        if len(arrays) != len(self._inputs):
            raise TensorMismatch(f"the model has {len(self._inputs)} input tensors, {len(arrays)} arrays were given")
        return tuple(
            self._quantise_one(self._numpy.asarray(array), port)
            for array, port in zip(arrays, self._inputs, strict=True)
        )

    def invoke(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Run checked arrays; returns copies of the output tensors, dtype and shape as in ``outputs``.

        Raises:
            ModelRuntimeError: The interpreter failed, or an output has a shape that the model does not announce.
        """
        try:
            # Nearly every model. The loops below would add 17 % to what recording costs an inference
            # (`./tests/run bench tricks`).
            if self._single is not None:
                self._set_tensor(self._single[0], arrays[0])
                self._run()
                return (self._get_tensor(self._single[1]),)
            for array, port in zip(arrays, self._inputs, strict=True):
                self._set_tensor(port.index, array)
            self._run()
            if self._unsized:
                return tuple(self._read_output(number, port) for number, port in enumerate(self._outputs))
            return tuple([self._get_tensor(port.index) for port in self._outputs])
        except (ValueError, RuntimeError) as error:
            raise ModelRuntimeError(f"the interpreter failed: {error}") from error

    def actual_shapes(self, outputs: Sequence[Any]) -> list[tuple[int, ...] | None]:
        """Shapes for the record: those of outputs that vary, None for each other."""
        return [
            array.shape if -1 in tensor.shape else None for array, tensor in zip(outputs, self.outputs, strict=True)
        ]

    def dequantise(self, outputs: Sequence[Any]) -> tuple[Any, ...]:
        """Real values of the outputs: float32 of the same shapes; float tensors pass unchanged."""
        result = []
        for array, port in zip(outputs, self._outputs, strict=True):
            tensor = port.tensor
            if not tensor.scale:
                result.append(array)
                continue
            scale, zero = self._factors(tensor, len(port.shape))
            result.append(((array.astype("float32") - zero) * scale).astype("float32"))
        return tuple(result)

    def zeros(self) -> tuple[Any, ...]:
        """Arrays of zeros for every input."""
        return tuple(self._numpy.zeros(port.shape, port.dtype) for port in self._inputs)

    def from_bytes(self, raw: Sequence[bytes]) -> tuple[Any, ...]:
        """Input arrays from raw little-endian tensor bytes, one buffer per input.

        Raises:
            TensorMismatch: Another number of buffers, or a length that does not fit the tensor.
        """
        if len(raw) != len(self._inputs):
            raise TensorMismatch(f"the model has {len(self._inputs)} input tensors, {len(raw)} were given")
        result = []
        for data, port in zip(raw, self._inputs, strict=True):
            if len(data) != port.tensor.nbytes:
                raise TensorMismatch(
                    f"input {port.tensor.name!r} must have {port.tensor.nbytes} bytes, not {len(data)}"
                )
            result.append(
                self._numpy.frombuffer(data, port.dtype.newbyteorder("<")).astype(port.dtype).reshape(port.shape)
            )
        return tuple(result)

    def largest_difference(self, outputs: Sequence[Any], expected: Sequence[bytes]) -> float:
        """Largest distance between outputs and expected raw bytes, in raw units; infinite when shapes differ."""
        if len(outputs) != len(expected):
            return float("inf")
        worst = 0.0
        for array, data in zip(outputs, expected, strict=True):
            if len(data) != array.nbytes:
                return float("inf")
            known = self._numpy.frombuffer(data, array.dtype.newbyteorder("<")).reshape(array.shape)
            if array.size:
                difference = float(self._numpy.abs(array.astype("float64") - known.astype("float64")).max())
                worst = max(worst, float("inf") if difference != difference else difference)  # NaN  # noqa: PLR0124
        return worst

    def _quantise_one(self, array: Any, port: _Port) -> Any:
        tensor = port.tensor
        if array.dtype == port.dtype or not tensor.scale:
            return array
        if array.dtype.kind != "f":
            raise self._mismatch(array, port)
        if not self._numpy.isfinite(array).all():
            raise TensorMismatch(
                f"input {tensor.name!r} holds NaN or infinity, and the model is quantised ({tensor.dtype})",
                advice="Clean the input first: no integer stands for a missing value.",
            )
        scale, zero = self._factors(tensor, array.ndim)
        bounds = self._numpy.iinfo(port.dtype)
        steps = self._numpy.rint(array / scale + zero)
        return self._numpy.clip(steps, bounds.min, bounds.max).astype(port.dtype)

    def _factors(self, tensor: Tensor, rank: int) -> tuple[Any, Any]:
        if len(tensor.scale) == 1:
            return tensor.scale[0], tensor.zero_point[0]
        shape = [1] * rank
        shape[tensor.axis] = len(tensor.scale)
        as_array = self._numpy.asarray
        return as_array(tensor.scale, "float32").reshape(shape), as_array(tensor.zero_point).reshape(shape)

    def _has_data(self, index: int) -> bool:
        try:
            self._get_tensor(index)
        except ValueError:
            return False
        return True

    def _read_output(self, number: int, port: _Port) -> Any:
        try:
            array = self._get_tensor(port.index)
        except ValueError:  # how the interpreter gives a tensor without elements: nothing was found
            shape = tuple(int(size) for size in self._interpreter.get_output_details()[number]["shape"])
            if 0 not in shape:
                raise
            array = self._numpy.empty(shape, port.dtype)
        known = port.tensor.shape
        if len(array.shape) != len(known) or any(
            fixed not in (-1, size) for fixed, size in zip(known, array.shape, strict=True)
        ):
            raise ModelRuntimeError(
                f"output {port.tensor.name!r} came out as {list(array.shape)}, the model announces {list(known)}"
            )
        return array

    def _port(self, detail: Mapping[str, Any], *, unsized: bool = False) -> _Port:
        quantisation = detail["quantization_parameters"]
        # The signature has -1 also where only the input's batch is open, which is fixed here: see __init__.
        varying = unsized and len(detail["shape_signature"]) == len(detail["shape"])
        shape = tuple(int(size) for size in detail["shape_signature" if varying else "shape"])
        return _Port(
            index=int(detail["index"]),
            dtype=self._numpy.dtype(detail["dtype"]),
            shape=shape,
            tensor=Tensor(
                name=str(detail["name"]),
                shape=shape,
                dtype=self._numpy.dtype(detail["dtype"]).name,
                scale=tuple(float(value) for value in quantisation["scales"]),
                zero_point=tuple(int(value) for value in quantisation["zero_points"]),
                axis=int(quantisation["quantized_dimension"]),
            ),
        )

    def _mismatch(self, array: Any, port: _Port) -> TensorMismatch:
        tensor = port.tensor
        advice = None
        if array.dtype.kind == "f" and tensor.dtype in _QUANTISED and array.shape == port.shape:
            advice = "Ask for quantisation (run(..., quantise=True) or --quantize), or quantise it yourself."
        expected = f"{tensor.dtype}{list(tensor.shape)}"
        given = f"{array.dtype.name}{list(array.shape)}"
        return TensorMismatch(f"input {tensor.name!r} must be {expected}, not {given}", advice=advice)


def probe(name: str) -> str:
    """Name and version of the interpreter that would be used, after it really made one.

    Raises:
        RuntimeMissing: None is usable with the installed numpy.
    """
    package, module = _import(name)
    try:
        module.Interpreter(model_content=b"")
    except ValueError:
        pass  # it refused an empty model, so its native part works
    except (ImportError, SystemError) as error:
        raise RuntimeMissing(f"{package} does not work with numpy {_numpy().__version__}: {error}") from error
    return f"{package} {_version(package)}"


def load_arrays(path: str, array: str | None) -> Any:
    """Read a ``.npy`` file, or one array of an ``.npz`` file. Pickled objects are refused.

    Args:
        path: File name.
        array: Name of the array in an ``.npz`` file; None takes the only one.

    Raises:
        UsageError: No such file or array, or not a numpy file.
    """
    numpy = _numpy()
    try:
        loaded = numpy.load(path, allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or 'not a numpy file'}") from error
    except (ValueError, EOFError) as error:
        raise UsageError(f"{path}: not a numpy file without pickled objects") from error
    if isinstance(loaded, numpy.ndarray):
        return loaded
    with loaded:
        names = list(loaded.files)
        if array is None and len(names) == 1:
            array = names[0]
        if array not in names:
            raise UsageError(f"{path} holds the arrays {', '.join(names)}", advice="Choose one with --array.")
        try:
            return loaded[array]
        except (ValueError, OSError, EOFError) as error:
            raise UsageError(f"{path}: array {array!r} cannot be read: {error}") from error


def to_array(value: object, tensor: Tensor) -> Any:
    """A numpy array of nested lists from JSON, in the tensor's shape where the count of values fits.

    Raises:
        TensorMismatch: Ragged lists, or values that are no numbers of the tensor's dtype.
    """
    numpy = _numpy()
    what = f"input {tensor.name!r} must be {tensor.dtype}{list(tensor.shape)}"
    try:
        array = numpy.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise TensorMismatch(f"{what}: the lists are ragged or hold no numbers") from error
    if array.dtype.kind not in "biuf":
        raise TensorMismatch(f"{what}, and these are no numbers")
    if array.dtype.kind in "biu" and tensor.dtype in _QUANTISED:
        bounds = numpy.iinfo(tensor.dtype)
        if array.size and (array.min() < bounds.min or array.max() > bounds.max):
            raise TensorMismatch(f"{what}, and these values are outside its range")
        array = array.astype(tensor.dtype)
    elif tensor.dtype.startswith("float"):
        array = array.astype(tensor.dtype)
    return fit(array, tensor)


def fit(array: Any, tensor: Tensor) -> Any:
    """Add the leading batch dimension of 1 where only that is missing; anything else stays as it is."""
    if tuple(array.shape) == tensor.shape[1:] and tensor.shape[:1] == (1,):
        return array.reshape(tensor.shape)
    return array


def _import(name: str) -> tuple[str, ModuleType]:
    import importlib

    candidates = list(_PACKAGES) if name == "auto" else [name]
    reasons = []
    for candidate in candidates:
        try:
            return candidate, importlib.import_module(f"{_PACKAGES[candidate]}.interpreter")
        except (ImportError, AttributeError, SystemError) as error:
            reasons.append(f"{candidate}: {error}")
    raise RuntimeMissing(f"no tflite interpreter: {'; '.join(reasons)}")


def _numpy() -> Any:
    try:
        import numpy as np
    except ImportError as error:
        raise RuntimeMissing(f"numpy is missing: {error}") from error
    return np


def _version(package: str) -> str:
    import importlib

    module = importlib.import_module(_PACKAGES[package])
    if version := getattr(module, "__version__", None):
        return str(version)
    from importlib import metadata  # slow import, so only where the package does not say

    return metadata.version(package)
