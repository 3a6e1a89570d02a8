"""A file opened on its runtime, here or in a process of its own.

The process runs the source of this module, so it imports nothing of this package: NumPy and the runtime are enough, and
it starts in a fraction of a second. Requests and replies are JSON and arrays without pickle: a file that takes over the
process cannot make the caller run code.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np

WARM_UP_RUNS = 5
LENGTH = struct.Struct("<Q")


class Port(NamedTuple):
    """One input or output of a file.

    Args:
        position: its index in the interpreter.
        name: the tensor's name.
        shape: its sizes in the file.
        signature: the same; -1 is any.
        dtype: NumPy's name of the type of its values.
        scale: step of its grid; 0 if it is not quantized.
        zero_point: code of zero.
    """

    position: int
    name: str
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    dtype: str
    scale: float
    zero_point: int


class LiteRTSession:
    """A file on LiteRT's interpreter.

    Args:
        content: the file's bytes.
        num_threads: threads of the interpreter.
        xnnpack: whether the XNNPACK delegate may run operators.

    Attributes:
        inputs: in the file's order.
        outputs: likewise.
    """

    def __init__(self, content: bytes, num_threads: int, xnnpack: bool):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kind = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._interpreter = Interpreter(
            model_content=content, num_threads=num_threads, experimental_op_resolver_type=kind
        )
        self._shapes: list[tuple[int, ...]] = []
        self.inputs = [_port(detail) for detail in self._interpreter.get_input_details()]
        self.outputs = [_port(detail) for detail in self._interpreter.get_output_details()]
        # With sizes open beyond the samples the file may not fit together before its inputs are resized.
        if all(-1 not in port.signature[1:] for port in self.inputs):
            self._interpreter.allocate_tensors()
        self.inputs = self._named(self.inputs)

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for one batch."""
        self._resize([array.shape for array in arrays])
        for port, array in zip(self.inputs, arrays, strict=True):
            self._interpreter.set_tensor(port.position, array)
        # The fused LSTM keeps its state between calls; it must not leak into the next sample.
        self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(port.position) for port in self.outputs]

    def times(self, arrays: list[np.ndarray], num_runs: int) -> list[float]:
        """Returns the milliseconds of single runs on the same inputs, after five that warm up."""
        self._resize([array.shape for array in arrays])
        for port, array in zip(self.inputs, arrays, strict=True):
            self._interpreter.set_tensor(port.position, array)
        return [self._timed() for _ in range(WARM_UP_RUNS + num_runs)][WARM_UP_RUNS:]

    def _timed(self) -> float:
        """Returns the milliseconds of one run."""
        start = time.perf_counter()
        self._interpreter.invoke()
        return 1e3 * (time.perf_counter() - start)

    def _resize(self, shapes: list[tuple[int, ...]]) -> None:
        """Resizes the inputs to these shapes; only open sizes may differ from the file's."""
        if shapes == self._shapes:
            return
        self._shapes = []
        for port, shape in zip(self.inputs, shapes, strict=True):
            self._interpreter.resize_tensor_input(port.position, shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def _named(self, ports: list[Port]) -> list[Port]:
        """Returns inputs by the names of the first signature, if there is one."""
        keys = list(self._interpreter.get_signature_list())
        if not keys:
            return ports
        details = self._interpreter.get_signature_runner(keys[0]).get_input_details()
        names = {int(detail["index"]): name for name, detail in details.items()}
        return [port._replace(name=names.get(port.position, port.name)) for port in ports]


class TFLMSession:
    """A file on LiteRT for Microcontrollers. Its constructor runs the file once, on zeros.

    Args:
        content: the file's bytes.
        arena_bytes: memory for the interpreter.
        num_inputs: number of the file's inputs.
        num_outputs: number of the file's outputs.

    Attributes:
        inputs: in the file's order, without names.
        outputs: likewise.
    """

    def __init__(self, content: bytes, arena_bytes: int, num_inputs: int, num_outputs: int):
        from tflite_micro import runtime

        self._interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena_bytes)
        self.inputs = [_port(self._interpreter.get_input_details(i)) for i in range(num_inputs)]
        self.outputs = [_port(self._interpreter.get_output_details(i)) for i in range(num_outputs)]
        self.run([np.zeros(port.shape, port.dtype) for port in self.inputs])

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for samples, which run one by one."""
        parts = [self._run_one([array[i : i + 1] for array in arrays]) for i in range(len(arrays[0]))]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _run_one(self, sample: list[np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs for one sample."""
        for i, values in enumerate(sample):
            self._interpreter.set_input(np.ascontiguousarray(values), i)
        self._interpreter.invoke()
        return [np.array(self._interpreter.get_output(i)) for i in range(len(self.outputs))]


class ArenaSearch:
    """The search for the smallest arena, in which each size is tried in a forked process.

    Args:
        content: the file's bytes.
    """

    def __init__(self, content: bytes):
        self._content = content
        self.inputs = self.outputs = ()

    def run(self, arrays: list[np.ndarray], sufficient: int, alignment: int) -> list[np.ndarray]:
        """Returns the least multiple of `alignment`, up to `sufficient`, that the interpreter starts in."""
        from tflite_micro import runtime

        low, high = 0, sufficient // alignment
        while high - low > 1:
            middle = (low + high) // 2
            child = os.fork()
            if child == 0:
                # The interpreter raises, or aborts its process if an arena is far too small.
                status = 1
                try:
                    runtime.Interpreter.from_bytes(self._content, arena_size=middle * alignment)
                    status = 0
                finally:
                    os._exit(status)
            low, high = (middle, high) if os.waitpid(child, 0)[1] else (low, middle)
        return [np.asarray(high * alignment, np.int64)]


def _port(detail: dict[str, Any]) -> Port:
    """Returns an interpreter's description of an input or output."""
    shape = tuple(int(size) for size in detail["shape"])
    signature = detail.get("shape_signature")
    scale, zero_point = _grid(detail)
    return Port(
        position=int(detail.get("index", 0)),
        name=str(detail.get("name", "")),
        shape=shape,
        signature=tuple(int(size) for size in signature) if signature is not None and len(signature) else shape,
        dtype=np.dtype(detail["dtype"]).name,
        scale=scale,
        zero_point=zero_point,
    )


def _grid(detail: dict[str, Any]) -> tuple[float, int]:
    """Returns scale and zero point of an input or output: LiteRT has one key for both, TFLM arrays of one entry."""
    if isinstance(detail.get("quantization"), tuple):
        scale, zero_point = detail["quantization"]
        return float(scale), int(zero_point)
    parameters = detail.get("quantization_parameters", {})
    scales, zero_points = (parameters.get(name, ()) for name in ("scales", "zero_points"))
    return (float(scales[0]), int(zero_points[0])) if len(scales) == len(zero_points) == 1 else (0.0, 0)


def send(stream: IO[bytes], header: dict[str, Any], arrays: list[np.ndarray]) -> None:
    """Writes one message: its header, and arrays."""
    file = io.BytesIO()
    for array in arrays:
        # Strings come as objects, which need pickle.
        plain = array.astype(np.bytes_) if array.dtype.hasobject else array
        np.lib.format.write_array(file, np.asarray(plain, order="C"), allow_pickle=False)
    head, body = json.dumps({**header, "arrays": len(arrays)}).encode(), file.getbuffer()
    for part in (head, body):
        stream.write(LENGTH.pack(len(part)))
        stream.write(part)
    stream.flush()


def receive(read: Callable[[int], bytes]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Returns a message that `send` wrote.

    Args:
        read: returns as many bytes as it is asked for; raises EOFError at the end.
    """
    header = json.loads(read(LENGTH.unpack(read(LENGTH.size))[0]))
    file = io.BytesIO(read(LENGTH.unpack(read(LENGTH.size))[0]))
    return header, [np.lib.format.read_array(file, allow_pickle=False) for _ in range(header["arrays"])]


def serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answers requests until their end: first one that opens a session, then calls of its methods."""

    def read(size: int) -> bytes:
        data = requests.read(size)
        if len(data) < size:
            raise EOFError
        return data

    session: Any = None
    while True:
        try:
            header, arrays = receive(read)
        except EOFError:
            return
        found: Any = []
        try:
            if header["method"] == "open":
                session = globals()[header["kind"]](arrays[0].tobytes(), **header["options"])
                reply = {"inputs": session.inputs, "outputs": session.outputs}
            else:
                found = getattr(session, header["method"])(arrays, **header["options"])
                reply = {"times": found} if header["method"] == "times" else {}
        except Exception as error:  # noqa: BLE001 - the caller raises it again
            reply = {"error": str(error) or type(error).__name__}
        send(replies, reply, [] if "error" in reply or "times" in reply else found)


if __name__ == "__main__":
    # What native code prints must not get between the replies.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)
