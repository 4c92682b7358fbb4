# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""Run inputs through the verified model of a slot and record each result.

Inputs: a .npy file, one array of an .npz file, or JSON lines (nested lists of numbers, one input a
line; `-` reads standard input). The first axis counts the inputs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeprov.cli.output import Output
from edgeprov.cli.parsing import positive
from edgeprov.errors import LimitError, TensorMismatch, UsageError
from edgeprov.limits import LIMITS

if TYPE_CHECKING:
    from edgeprov.device.api import Model


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input", required=True, metavar="FILE", help=".npy, .npz, or JSON lines ('-': standard input)"
    )
    parser.add_argument("--array", metavar="NAME", help="which array of an .npz file")
    parser.add_argument("--slot", help="default: the first configured slot")
    parser.add_argument("--quantize", "--quantise", action="store_true", help="take real numbers for a quantised model")
    parser.add_argument("--limit", type=positive, metavar="N", help="only the first N inputs")
    parser.add_argument("--quiet", action="store_true", help="only the summary, no line per result")


def run(args: argparse.Namespace, out: Output) -> None:
    import edgeprov

    first = last = None
    count = 0
    with edgeprov.open_device() as device:
        model = device.load_model(args.slot)
        inputs, total = _inputs(args, model)
        with out.progress("inference", total) as bar:
            for item in inputs:
                if args.limit is not None and count >= args.limit:
                    break
                result = model.run(*item, quantise=args.quantize)
                first = result.record if first is None else first
                last = result.record
                count += 1
                bar.advance()
                if not args.quiet:
                    _print(out, model, result)
    if first is None or last is None:
        raise UsageError(f"{args.input} holds no inputs")
    out.item(
        "records",
        f"{count} results recorded: {first} to {last}, model {model.digest}",
        count=count,
        slot=model.slot,
        first=first.n,
        last=last.n,
        model=str(model.digest),
    )
    out.next("edgeprov label RECORD VALUE, or edgeprov seal")


def _print(out: Output, model: Model, result: Any) -> None:
    real = model.dequantise(result)
    text = "  ".join(" ".join(f"{value:.6g}" for value in array.reshape(-1)[:16].tolist()) for array in real)
    out.item(
        "result",
        f"{result.record}  {text}",
        slot=result.record.slot,
        n=result.record.n,
        outputs=[array.tolist() for array in result.outputs] if out.as_json else None,
        values=[array.tolist() for array in real] if out.as_json else None,
        duration_ns=result.duration_ns,
    )


def _inputs(args: argparse.Namespace, model: Model) -> tuple[Iterator[tuple[Any, ...]], int]:
    if len(model.inputs) != 1 and Path(args.input).suffix in (".npy", ".npz"):
        raise UsageError(
            f"the model has {len(model.inputs)} inputs: an array file gives one",
            advice="Give JSON lines, each a list with one nested list per input.",
        )
    if Path(args.input).suffix in (".npy", ".npz"):
        from edgeprov.device.runtime import fit, load_arrays

        array = load_arrays(args.input, args.array)
        tensor = model.inputs[0]
        if array.ndim == len(tensor.shape) and tensor.shape[:1] == (1,):
            return ((fit(row, tensor),) for row in array), len(array)
        if tuple(array.shape) == tensor.shape[1:]:
            return iter([(fit(array, tensor),)]), 1
        shape = f"[N, {', '.join(map(str, tensor.shape[1:]))}]"
        raise TensorMismatch(f"{args.input} has shape {list(array.shape)}, the model takes {shape}")
    return _json_inputs(args.input, model), 1_000_000  # nobody knows; the bar only shows that it moves


def _json_inputs(name: str, model: Model) -> Iterator[tuple[Any, ...]]:
    from edgeprov.device.runtime import to_array
    from edgeprov.formats.jsonx import parse_json

    try:
        stream = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}", advice="Check the file's name.") from error
    with stream:
        number = 0
        while line := stream.readline(LIMITS.input_bytes + 1):
            number += 1
            if len(line) > LIMITS.input_bytes:
                raise LimitError(f"{name}, line {number}: longer than {LIMITS.input_bytes} bytes")
            if not line.strip():
                continue
            value = parse_json(line, f"{name}, line {number}", max_bytes=LIMITS.input_bytes)
            items = value if len(model.inputs) > 1 else [value]
            if not isinstance(items, list) or len(items) != len(model.inputs):
                raise TensorMismatch(f"{name}, line {number}: the model takes {len(model.inputs)} inputs")
            yield tuple(to_array(item, tensor) for item, tensor in zip(items, model.inputs, strict=True))
