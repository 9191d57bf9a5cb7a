"""The child's lock, and what it makes of a file before FFmpeg does."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from full_disk import largest_file
from video_clips import FRAMES, clip, written

from bitrate_ext import video
from bitrate_ext.video import decoded
from bitrate_ext.video.decoder import decoding, sandbox
from bitrate_ext.video.decoder.truncation import Input, is_cut_short
from bitrate_ext.video.reader import VideoReader

FILTERED = sys.platform == "linux" and os.uname().machine in sandbox.ARCHITECTURES
BESIDE = str(Path(video.__file__).parent)  # from there the child's folder is a package by itself
# Without the package: locks in, and says what each attempt ends with.
ATTEMPTS = """
import ctypes, errno, json, os, platform, signal, socket, sys, threading
sys.path.insert(0, sys.argv[1])
from decoder import sandbox
unfiltered = sys.argv[2] == "without"
if unfiltered:
    platform.machine = lambda: "sparc"
libc, parent, here = ctypes.CDLL(None, use_errno=True), os.getppid(), os.getcwd()
kept = open("kept", "wb", buffering=0)
ready, go = threading.Event(), threading.Event()
elsewhere = []
def other_thread():
    ready.set()
    go.wait()
    try:
        elsewhere.append(os.open("/etc/passwd", os.O_RDONLY))
    except OSError as error:
        elsewhere.append(error.errno)
before = threading.Thread(target=other_thread)
before.start()
ready.wait()
locked = sandbox.lock_in(1 << 30)
def clone3():
    ctypes.set_errno(0)
    libc.syscall(ctypes.c_long(435), None, ctypes.c_long(0))
    raise OSError(ctypes.get_errno(), "")
attempts = {
    "open": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "creat": lambda: os.open("new", os.O_WRONLY | os.O_CREAT),
    "socket": lambda: socket.socket(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "fork": lambda: os.fork(),
    "clone3": clone3,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "unlink": lambda: os.unlink("kept"),
    "rename": lambda: os.rename("kept", "moved"),
    "mkdir": lambda: os.mkdir("new"),
    "link": lambda: os.symlink("kept", "new"),
    "stat": lambda: os.stat("kept"),
    "list": lambda: os.listdir("."),
    "chdir": lambda: os.chdir("/"),
    "pipe": lambda: os.pipe(),
    "dup": lambda: os.dup(1),
    "kill": lambda: os.kill(parent, 0),
    "write to a file": lambda: kept.write(b"x"),
    "memory": lambda: bytearray(1 << 30),
}
found = {}
for name, attempt in attempts.items():
    if unfiltered and name in ("fork", "exec", "unlink", "rename", "chdir", "clone3"):
        continue  # nothing hinders them
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = errno.errorcode[error.errno]
    except MemoryError:
        found[name] = "MemoryError"
go.set()
before.join()
threading.Thread(target=lambda: found.update(thread="done")).start()
found["another thread"] = errno.errorcode[elsewhere[0]]
os.write(1, json.dumps([locked, found]).encode())
"""


def attempts(folder: Path, how: str) -> tuple[bool, dict[str, str]]:
    command = [sys.executable, "-I", "-S", "-c", ATTEMPTS, BESIDE, how]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    locked, found = json.loads(done.stdout)
    return locked, found


@pytest.mark.skipif(not FILTERED, reason="no filter of system calls for this system")
def test_a_child_that_is_locked_in_can_open_nothing(tmp_path: Path) -> None:
    locked, found = attempts(tmp_path, "with")
    assert locked
    assert found.pop("thread") == "done"
    assert found.pop("memory") == "MemoryError"
    assert found.pop("clone3") == "ENOSYS"
    assert found.pop("write to a file") == "EFBIG"
    assert set(found.values()) == {"EPERM"}, found
    assert sorted(os.listdir(tmp_path)) == ["kept"]
    assert (tmp_path / "kept").stat().st_size == 0


def test_without_the_filter_limits_remain(tmp_path: Path) -> None:
    locked, found = attempts(tmp_path, "without")
    assert not locked
    for name in ("open", "creat", "socket", "unix socket", "list", "pipe", "another thread"):
        assert found[name] == "EMFILE", name
    assert found["write to a file"] == "EFBIG"
    assert found["memory"] == "MemoryError"


def verdict(program: bytes, arch: int, number: int, argument: int = 0) -> int:
    """What the kernel would make of a system call: the few BPF instructions that the filter is made of."""
    instructions = list(struct.iter_unpack("<HBBI", program))
    data = struct.pack("<IIQ6Q", number, arch, 0, argument, 0, 0, 0, 0, 0)
    at = accumulator = 0
    while True:
        code, yes, no, value = instructions[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        else:
            assert code in (0x15, 0x45)
            at += yes if (accumulator == value if code == 0x15 else accumulator & value) else no


ALLOW, EPERM = 0x7FFF0000, 0x00050000 | errno.EPERM
# From the kernel's tables, for x86_64 and aarch64: what must never pass.
FORBIDDEN = {
    "openat": (257, 56), "openat2": (437, 437), "socket": (41, 198), "connect": (42, 203), "execve": (59, 221),
    "execveat": (322, 281), "unlinkat": (263, 35), "renameat2": (316, 276), "ptrace": (101, 117), "kill": (62, 129),
    "mkdirat": (258, 34), "linkat": (265, 37), "io_uring_setup": (425, 425), "process_vm_writev": (311, 271),
    "memfd_create": (319, 279), "prctl": (157, 167), "seccomp": (317, 277), "fcntl": (72, 25), "ioctl": (16, 29),
    "prlimit64": (302, 261), "sendto": (44, 206), "bpf": (321, 280), "mount": (165, 40), "setuid": (105, 146)
}  # fmt: skip
PROCESSORS = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


@pytest.mark.parametrize(("column", "machine"), list(enumerate(PROCESSORS)))
def test_the_filter_of_both_processors(column: int, machine: str) -> None:
    arch, program = PROCESSORS[machine], sandbox.seccomp_filter(machine, 77)
    assert len(program) // 8 < 4096  # the kernel's limit
    allowed = {number for number in range(1200) if verdict(program, arch, number) == ALLOW}
    assert allowed == {numbers[column] for numbers in sandbox.ALLOWED.values()}
    for name, numbers in FORBIDDEN.items():
        assert verdict(program, arch, numbers[column]) == EPERM, name
    for other in set(PROCESSORS.values()) - {arch} | {0x40000003}:
        assert verdict(program, other, sandbox.ALLOWED["read"][column]) == EPERM
    assert verdict(program, arch, 0x40000000) == EPERM  # x32
    clone, clone3, tgkill = ((56, 220)[column], 435, (234, 131)[column])
    assert verdict(program, arch, clone, 0x10000 | 0x100) == ALLOW
    assert verdict(program, arch, clone, signal.SIGCHLD) == EPERM
    assert verdict(program, arch, clone3) == 0x00050000 | errno.ENOSYS
    assert verdict(program, arch, tgkill, 77) == ALLOW
    assert verdict(program, arch, tgkill, 78) == EPERM


@pytest.mark.skipif(sys.platform != "linux", reason="a signal of Linux")
@pytest.mark.parametrize("early", [False, True])
def test_a_busy_child_ends_with_its_parent(early: bool) -> None:
    """It never looks at its pipe again; the parent may be gone before it has seen to that."""
    program = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from decoder import sandbox; "
        "time.sleep(float(sys.argv[2])); sandbox.end_with_parent(0); print(flush=True)\nwhile True: pass"
    )
    command = [sys.executable, "-I", "-S", "-c", program, BESIDE, "0.3" if early else "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            if not early:
                child.stdout.readline()
            child.stdin.close()
            assert child.wait(10) == (1 if early else -signal.SIGIO)
        finally:
            child.kill()


# What the file itself says of its end.


def cut(folder: Path, data: bytes) -> bool:
    descriptor = os.open(written(folder, "a", data), os.O_RDONLY)
    try:
        return is_cut_short(Input(descriptor), len(data))
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "avi", "gif", "ts"])
def test_every_cut_is_seen(suffix: str, tmp_path: Path) -> None:
    data = clip(suffix)
    assert not cut(tmp_path, data)
    seen = {length: cut(tmp_path, data[:length]) for length in range(400, len(data), len(data) // 100)}
    # Of MPEG-TS what is cut between packets; of a GIF a byte that looks like its last; both are as good as whole.
    missed = [length for length, told in seen.items() if not told]
    if suffix == "ts":
        assert all(length % 188 == 0 for length in missed)
    elif suffix == "gif":
        assert len(missed) < len(seen) // 4
    elif suffix == "mp4":
        assert len(missed) <= 1  # where one part ends and the next begins
    else:
        assert missed == []


def box(kind: bytes, content: bytes = b"", *, length: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if length is None else length, kind) + content


def test_parts_of_an_mp4_file(tmp_path: Path) -> None:
    start = box(b"ftyp", b"isom")
    large = struct.pack(">I4sQ", 1, b"mdat", 16 + 100) + bytes(100)
    for whole in (start, start + box(b"mdat", bytes(9)), start + large, start + box(b"mdat", bytes(9), length=0)):
        assert not cut(tmp_path, whole)
    for short in (start + large[:-1], start + box(b"mdat", bytes(9))[:-1], start + b"\0\0\0"):
        assert cut(tmp_path, short)


def test_matroska_written_live_states_no_end(tmp_path: Path) -> None:
    header = b"\x1aE\xdf\xa3\x82ab"
    assert not cut(tmp_path, header + b"\x18S\x80g" + b"\x01" + b"\xff" * 7 + b"cluster")
    assert not cut(tmp_path, header + b"\x18S\x80g" + b"\x84" + b"abcd")
    assert cut(tmp_path, header + b"\x18S\x80g" + b"\x85" + b"abcd")


def test_what_is_none_of_these_is_whole(tmp_path: Path) -> None:
    for data in (b"x", b"hello" * 100, clip("h264"), clip("flv")):
        assert not cut(tmp_path, data)


@pytest.mark.parametrize("start", ["#EXTM3U\n", "ffconcat version 1.0\n", "\ufeff#EXTM3U\n", "\r\n<MPD>", "v=0\r\n"])
def test_playlists_are_told_by_their_first_bytes(start: str, tmp_path: Path) -> None:
    descriptor = os.open(written(tmp_path, "a", start.encode() + b"rest"), os.O_RDONLY)
    try:
        with pytest.raises(decoding.Unreadable, match="is a playlist"):
            next(decoding.decode(Input(descriptor), 9, 9, False, {}))
    finally:
        os.close(descriptor)


def test_decoded_frames_are_let_go(tmp_path: Path) -> None:
    """A frame and its side data hold each other: of 8K, forty of them would fill the memory that the child may take."""
    descriptor = os.open(written(tmp_path, "clip.mp4", clip("mp4", frames=40)), os.O_RDONLY)
    gc.collect()
    gc.freeze()  # what other tests have made is not looked at
    gc.disable()
    try:
        most = 0
        for _ in decoding.decode(Input(descriptor), os.fstat(descriptor).st_size, 1 << 20, False, {}):
            most = max(most, sum(type(one).__name__ == "VideoFrame" for one in gc.get_objects()))
    finally:
        gc.enable()
        gc.unfreeze()
        os.close(descriptor)
    assert 1 <= most <= 12  # as many as the decoder gives at once, and the one that is sent


def test_a_first_start_on_a_full_disk_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python would write a part of each compiled module, and every later decoder would end with that."""
    copy = shutil.copytree(decoded._DECODER, tmp_path / "decoder", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(decoded, "_DECODER", copy)
    Path(tmp_path / "a.mp4").write_bytes(clip("mp4"))
    with largest_file(1000), VideoReader(tmp_path / "a.mp4") as reader:
        assert len(list(reader)) == FRAMES
    assert not list(copy.rglob("*.pyc"))
    with VideoReader(tmp_path / "a.mp4") as reader:
        assert len(list(reader)) == FRAMES
