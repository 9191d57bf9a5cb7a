"""Children of ``VideoReader`` as forks of one small process that has PyAV imported: a tenth of the time of a start.

Run as a script it is that process: it takes descriptors over a socket, and forks. The forks run the same ``main`` as a
child that was started, and lock themselves in alike.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

LARGEST = 4096  # bytes of a request or an answer
BESIDE = str(Path(__file__).parents[1] / "bitrate_ext/video")  # from there the child's folder is a package by itself


class Server:
    """The small process; ``start`` stands in for ``video_reader._start``. Threads may share it."""

    def __init__(self) -> None:
        av = importlib.util.find_spec("av")
        assert av is not None
        assert av.origin is not None
        self._lock = threading.Lock()
        self._socket, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-I", "-S", __file__, str(far.fileno()), str(Path(av.origin).parent.parent), BESIDE]
        self._process = subprocess.Popen(command, pass_fds=[far.fileno()], env={"MALLOC_ARENA_MAX": "2"})
        far.close()

    def ask(self, request: dict[str, Any], descriptors: tuple[int, ...] = ()) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            return json.loads(self._socket.recv(LARGEST))

    def start(self, video: int, max_memory: int, max_pixels: int) -> Fork:
        (control_end, control), (frames, frames_end) = os.pipe(), os.pipe()
        pid = self.ask({"limits": [max_memory, max_pixels]}, (video, control_end, frames_end))
        os.close(control_end)
        os.close(frames_end)
        return Fork(self, pid, os.fdopen(control, "wb", 0), os.fdopen(frames, "rb", 0))

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


class Fork:
    """A child of the server, as ``subprocess.Popen`` would show it."""

    def __init__(self, server: Server, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        self._server, self.pid, self.stdin, self.stdout = server, pid, stdin, stdout
        self._code: int | None = None

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, 9)

    def wait(self, timeout: float | None = None) -> int:
        if self._code is None:
            self._code = self._server.ask({"wait": self.pid})
        return self._code


def serve(near: socket.socket) -> None:
    child = importlib.import_module("decoder.child")
    child.warm_up()
    while True:
        text, descriptors, _, _ = socket.recv_fds(near, LARGEST, 3)
        if not text:
            return
        request = json.loads(text)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                video, control, frames = descriptors
                os.dup2(control, 0)
                os.dup2(frames, 1)
                for descriptor in (control, frames, near.fileno()):
                    os.close(descriptor)
                try:
                    child.main([str(video), *map(str, request["limits"])])
                finally:
                    os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)
        near.send(json.dumps(answer).encode())


if __name__ == "__main__":
    sys.path[:0] = sys.argv[2:]
    serve(socket.socket(fileno=int(sys.argv[1])))
