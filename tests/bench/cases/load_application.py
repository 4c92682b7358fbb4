# SPDX-FileCopyrightText: The edgeprov authors
# SPDX-License-Identifier: Apache-2.0
"""An application with one inference. Run as a script; prints the bytes that its process has read.

verified PACKAGES EDGEPROV      it opens the device and loads the active model, as README shows
bare PACKAGES FILE              numpy and the interpreter alone, given the bytes of a file
"""

import sys

kind, packages, place, runs = sys.argv[1:]
sys.path.append(packages)
import numpy as np  # noqa: E402

if kind == "verified":
    sys.path.append(place)
    from edgeprov import open_device

    with open_device() as device:
        model = device.load_model()
        tensor = model.inputs[0]
        x = np.zeros(tensor.shape, tensor.dtype)
        for _ in range(int(runs)):
            model.run(x)
else:
    from tflite_runtime.interpreter import Interpreter

    with open(place, "rb") as file:
        interpreter = Interpreter(model_content=file.read(), num_threads=1)
    interpreter.allocate_tensors()
    tensor, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    x = np.zeros(tensor["shape"], tensor["dtype"])
    for _ in range(int(runs)):
        interpreter.set_tensor(tensor["index"], x)
        interpreter.invoke()
        interpreter.get_tensor(output)
with open("/proc/self/io") as file:
    print(file.read().split()[1])
