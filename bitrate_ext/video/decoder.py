"""The child of ``VideoReader``: decodes one video in a process that has locked itself in, and writes frames to a pipe.

Run as a script, by its path, with the standard library and PyAV alone: never torch, never the rest of the package. The
video comes as an open descriptor, so FFmpeg is given neither names nor protocols. Before its first byte is read, the
process gives up all but memory, threads, the video and the pipe. The parent trusts nothing that it says.

Messages on the pipe: PREFIX (kind, length of the rest), then
    INFO  JSON: what the container states; comes first
    FRAM  FRAME and the picture, ``height`` rows of ``stride`` bytes, of which ``3 * width`` are red, green and blue
    FAIL  text: why there is no going on
    DONE  JSON list of texts: what was found amiss; empty where the video is whole
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import importlib
import json
import os
import platform
import resource
import select
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

PREFIX = struct.Struct("<4sI")
FRAME = struct.Struct("<IIIBBxxIqq")  # width, height, stride, turn, damaged, packets lost so far, pts, duration
INFO, FRAM, FAIL, DONE = b"INFO", b"FRAM", b"FAIL", b"DONE"
NO_PTS = -(2**63)
TRANSPOSED, MIRRORED, FLIPPED = 1, 2, 4  # a turn: swap axes, then reverse columns, then reverse rows

CONTROL, FRAMES = 0, 1  # descriptors: a pipe that closes with the parent; the pipe to write to
PIPE_BYTES = 1 << 20  # what an ordinary user may ask for
READ_BYTES = 1 << 18  # of the video at a time

# FFmpeg's names of the containers that are read. None of these opens another file; playlists and image sequences do.
CONTAINERS = {
    "mov": "MP4",
    "matroska": "Matroska",
    "webm": "WebM",
    "avi": "AVI",
    "mpegts": "MPEG-TS",
    "mpeg": "MPEG-PS",
    "mpegvideo": "MPEG video",
    "ogg": "Ogg",
    "flv": "FLV",
    "asf": "ASF",
    "ivf": "IVF",
    "obu": "AV1",
    "h264": "H.264",
    "hevc": "HEVC",
    "yuv4mpegpipe": "Y4M",
    "gif": "GIF",
}
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"v=0", b"[playlist]")  # how they begin
# Of these the header states how long the video is; of the others FFmpeg guesses.
STATE_DURATION = {"mov", "matroska", "avi", "flv", "asf", "ivf"}
UNSPECIFIED, BT709, BT601 = 2, 1, 5  # matrix coefficients: FFmpeg's AVColorSpace, then PyAV's Colorspace
FULL_RANGE = 2
HIGH_DEFINITION = 720  # rows from which an unlabelled video is BT.709, as players take it
MOST_THREADS = 8
CUT = "the file is cut short"


class Unreadable(Exception):
    """Why the video cannot be read, in words for the user."""


# The lock. Numbers of system calls: x86_64, aarch64.

ALLOWED = {
    "read": (0, 63),
    "write": (1, 64),
    "writev": (20, 66),
    "lseek": (8, 62),
    "fstat": (5, 80),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "gettid": (186, 178),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "membarrier": (324, 283),
    "getpid": (39, 172),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "restart_syscall": (219, 128),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
CLONE, CLONE3, TGKILL, SECCOMP = (56, 220), (435, 435), (234, 131), (317, 277)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH
CLONE_THREAD = 0x10000
PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, ALL_THREADS = 38, 1, 1
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06  # classic BPF
NUMBER_AT, ARCH_AT, FIRST_ARGUMENT_AT = 0, 4, 16  # in struct seccomp_data, little endian
ALLOW, DENY = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO


def seccomp_filter(machine: str, pid: int) -> bytes:
    """The BPF program: system calls of ALLOWED pass, threads may be made, no process; the rest fails with EPERM."""
    column, arch = ARCHITECTURES[machine]
    program: list[tuple[int, int, int, int]] = []

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> None:
        program.append((code, yes, no, value))

    def when_argument(number: int, test: int, value: int) -> None:
        step(JUMP_EQUAL, number, no=4)
        step(LOAD, FIRST_ARGUMENT_AT)
        step(test, value, no=1)
        step(RETURN, ALLOW)
        step(RETURN, DENY | errno.EPERM)

    step(LOAD, ARCH_AT)
    step(JUMP_EQUAL, arch, yes=1)
    step(RETURN, DENY | errno.EPERM)
    step(LOAD, NUMBER_AT)
    for numbers in ALLOWED.values():
        step(JUMP_EQUAL, numbers[column], no=1)
        step(RETURN, ALLOW)
    step(JUMP_EQUAL, CLONE3[column], no=1)
    step(RETURN, DENY | errno.ENOSYS)  # its flags are out of a filter's sight; the C library falls back to clone
    when_argument(CLONE[column], JUMP_SET, CLONE_THREAD)
    when_argument(TGKILL[column], JUMP_EQUAL, pid)  # for abort()
    step(RETURN, DENY | errno.EPERM)
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in program)


def _deny_system_calls() -> bool:
    """Whether the filter is in force, for all threads."""
    machine = platform.machine()
    if sys.platform != "linux" or sys.byteorder != "little" or sys.maxsize < 2**32 or machine not in ARCHITECTURES:
        return False
    program = seccomp_filter(machine, os.getpid())
    buffer = ctypes.create_string_buffer(program, len(program))
    pointer = ctypes.c_uint64(ctypes.addressof(buffer))
    sock_fprog = struct.pack("HxxxxxxQ", len(program) // 8, pointer.value)
    libc = ctypes.CDLL(None, use_errno=True)
    number = SECCOMP[ARCHITECTURES[machine][0]]
    zero = ctypes.c_ulong(0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero) != 0:
        return False
    libc.syscall.restype = ctypes.c_long
    arguments = (ctypes.c_long(SECCOMP_SET_MODE_FILTER), ctypes.c_long(ALL_THREADS), ctypes.c_char_p(sock_fprog))
    return libc.syscall(ctypes.c_long(number), *arguments) == 0


def lock_in(max_memory: int) -> bool:
    """Give up what decoding does not need; returns whether system calls are filtered.

    Where they cannot be (another processor or system), what remains is: no new descriptor, so no file and no socket; no
    byte into a file; ``max_memory`` bytes of address space.
    """
    for limit, value in (
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, max_memory),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    return _deny_system_calls()


def end_with_parent(control: int) -> None:
    """Have the kernel end this process when the other end of the pipe closes, whatever the process is busy with.

    Unlike PR_SET_PDEATHSIG, this does not take the end of the thread that started the process for the parent's.
    """
    if not hasattr(fcntl, "F_SETOWN") or not hasattr(os, "O_ASYNC"):
        return
    signal.signal(signal.SIGIO, signal.SIG_DFL)  # ends the process
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, fcntl.fcntl(control, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(control, 0)
    if poll.poll(0):  # it had closed before
        os._exit(1)


# Decoding.


class Input:
    """The video as PyAV reads it: a descriptor, without a name."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int) -> bytes:
        return os.read(self._descriptor, size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)


def refuse_to_open(url: str, flags: int, options: dict[str, str]) -> Any:
    raise Unreadable("the video refers to another file, which is not opened")


def open_checked(video: Input) -> Any:
    """PyAV's container; raises Unreadable."""
    import av

    try:
        return av.open(
            video,
            "r",
            container_options={"format_whitelist": ",".join(CONTAINERS), "protocol_whitelist": "none"},
            metadata_errors="replace",
            buffer_size=READ_BYTES,
            io_open=refuse_to_open,
        )
    except av.error.FFmpegError as error:
        if error.errno == errno.EINVAL:  # what FFmpeg says of a container that is not on the list
            names = ", ".join(dict.fromkeys(CONTAINERS.values()))
            raise Unreadable(f"is not in a container that is read ({names})") from None
        raise Unreadable(f"is damaged, or no video ({_reason(error)})") from None


def picture_stream(container: Any, max_pixels: int) -> Any:
    """The container's video stream, ready to decode; raises Unreadable."""
    streams = [stream for stream in container.streams.video if "attached_pic" not in str(stream.disposition)]
    if not streams:
        holds = sorted({stream.type for stream in container.streams} - {"video"})
        raise Unreadable("holds no video stream" + (f", only {' and '.join(holds)}" if holds else ""))
    stream = max(streams, key=lambda stream: stream.width * stream.height if stream.codec_context else -1)
    context = stream.codec_context
    if context is None:
        raise Unreadable("there is no decoder for its video stream")
    if context.width * context.height > max_pixels:
        raise Unreadable(f"its frames are {context.width} x {context.height}, more than {max_pixels:,} pixels")
    context.options = {"max_pixels": str(max_pixels)}
    context.thread_count = min(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0, MOST_THREADS)
    context.thread_type = "AUTO"
    return stream


def decode(video: Input, size: int, max_pixels: int, sandboxed: bool) -> Iterator[list[Any]]:
    """Messages, each a list of buffers to write one after the other. ``size``: of the video, bytes."""
    import av
    from av.video.reformatter import VideoReformatter

    video.seek(0)
    if video.read(16).lstrip(b"\xef\xbb\xbf \r\n").startswith(PLAYLISTS):
        raise Unreadable("is a playlist: it names other files, which are not opened")
    amiss = cut_short(video, size)
    video.seek(0)
    container = open_checked(video)
    stream = picture_stream(container, max_pixels)
    yield message(INFO, json.dumps({**stated(container, stream), "sandboxed": sandboxed}).encode())
    reformatter = VideoReformatter()  # keeps its tables from frame to frame
    frames = lost = cut = 0
    first = end = None
    read_to = size  # where the last packet ends in the file
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError as error:
            amiss.append(f"the container is damaged after {frames} frames ({_reason(error)})")
            break
        if packet is None:
            break
        cut += bool(packet.is_corrupt)
        if packet.pos is not None:
            read_to = packet.pos + packet.size
        try:
            decoded = packet.decode()
        except MemoryError:
            raise
        except av.error.FFmpegError:
            lost += 1
            continue
        for frame in decoded:
            pts = NO_PTS if frame.pts is None or abs(frame.pts) >= 2**62 else frame.pts
            duration = min(max(frame.duration or 0, 0), 2**31)
            if pts != NO_PTS:
                first = pts if first is None else first
                end = max(end or pts, pts + duration)
            yield frame_message(rgb(frame, reformatter), frame, pts, duration, lost)
            frames += 1
            gc.collect()  # a frame and its side data hold each other; of 8K, forty would fill the memory
    if container.format.name == "yuv4mpegpipe" and read_to < size:  # FFmpeg leaves part of a frame out without a word
        amiss.append(CUT)
    if lost:
        hint = "" if frames else f" (frames of more than {max_pixels:,} pixels are refused)"
        amiss.append(f"packets that could not be decoded: {lost}{hint}")
    if cut:
        amiss.append(f"packets cut or marked as damaged: {cut}")
    missing = first is not None and end is not None and time_missing(container, stream, end - first)
    if missing and not amiss:
        amiss.append(missing)
    yield message(DONE, json.dumps(amiss).encode())


def message(kind: bytes, *parts: Any) -> list[Any]:
    return [PREFIX.pack(kind, sum(memoryview(part).nbytes for part in parts)), *parts]


def stated(container: Any, stream: Any) -> dict[str, Any]:
    """What INFO says: of the container and its stream, before anything is decoded."""
    rate = stream.average_rate or stream.guessed_rate or 0
    return {
        "container": container.format.name.split(",")[0],
        "codec": stream.codec_context.name,
        "time_base": [stream.time_base.numerator, stream.time_base.denominator],  # of pts and durations, seconds
        "rate": [rate.numerator, rate.denominator] if rate > 0 else None,  # frames a second
        "count": stream.frames or None,
    }


def rgb(frame: Any, reformatter: Any) -> Any:
    """The frame as 8-bit RGB, by its own matrix and range; alpha is dropped, HDR is not tone-mapped."""
    matrix = None
    if frame.colorspace == UNSPECIFIED:
        matrix = BT709 if min(frame.width, frame.height) >= HIGH_DEFINITION else BT601
    return reformatter.reformat(
        frame, format="rgb24", src_colorspace=matrix, src_color_range=frame.color_range, dst_color_range=FULL_RANGE
    )


def frame_message(picture: Any, frame: Any, pts: int, duration: int, lost: int) -> list[Any]:
    plane = picture.planes[0]
    facts = (picture.width, picture.height, plane.line_size, turn_of(frame), bool(frame.is_corrupt))
    pixels = memoryview(plane)[: plane.line_size * picture.height]
    return message(FRAM, FRAME.pack(*facts, lost, pts, duration), pixels)


def turn_of(frame: Any) -> int:
    """How a viewer turns the frame: flags TRANSPOSED, MIRRORED, FLIPPED. Other than quarter turns are left alone."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None or memoryview(data).nbytes != 36:
        return 0
    # x' = a x + c y, y' = b x + d y, in 16.16 fixed point.
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    if a and d and not b and not c:
        return MIRRORED * (a < 0) | FLIPPED * (d < 0)
    if b and c and not a and not d:
        return TRANSPOSED | MIRRORED * (c < 0) | FLIPPED * (b < 0)
    return 0


def time_missing(container: Any, stream: Any, ticks: int) -> str | None:
    """What of the stated duration is missing, in words; ``ticks``: what the frames last, in the stream's time base."""
    if container.format.name.split(",")[0] not in STATE_DURATION:
        return None
    period = 1 / stream.average_rate if stream.average_rate else Fraction(1, 25)
    if stream.duration:
        whole, slack = stream.duration * stream.time_base, 2 * period
    elif container.duration and len(container.streams) == 1:
        whole, slack = Fraction(container.duration, 1_000_000), max(2 * period, Fraction(1, 2))
    else:
        return None
    there = ticks * stream.time_base
    if there + slack >= whole:
        return None
    return f"the frames last {float(there):.2f} s, the container states {float(whole):.2f} s"


def cut_short(video: Input, size: int) -> list[str]:
    """Whether the file ends before it should, by its outermost parts: MP4, Matroska, AVI, MPEG-TS, GIF."""
    video.seek(0)
    head = video.read(16)
    end = 0
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        end = _end_of_boxes(video, size)
    elif head[:4] == b"RIFF":
        end = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b"\x1aE\xdf\xa3":
        end = _end_of_segment(video)
    elif head[:4] == b"GIF8":
        video.seek(size - 16)
        end = size + 1 if b"\x3b" not in video.read(16) else 0
    elif packet := _packet_bytes(video):
        end = size + bool(size % packet)
    return [CUT] if end > size else []


def _packet_bytes(video: Input) -> int:
    """Of MPEG-TS; 0 where it is none. Discs put a time before each packet, broadcasts put check bytes behind."""
    video.seek(0)
    head = video.read(2 * 204)
    for packet, sync in ((188, 0), (192, 4), (204, 0)):
        if head[sync::packet][:2] == b"GG":
            return packet
    return 0


def _end_of_boxes(video: Input, size: int) -> int:
    """Where the last of the boxes at the top of an MP4 file says that it ends."""
    position = 0
    while position + 8 <= size:
        video.seek(position)
        head = video.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file, whatever that is
            return size
        position += max(length, 8)
    return position if position == size else max(position, size + 1)


def _end_of_segment(video: Input) -> int:
    """Where the segment of a Matroska file says that it ends; 0 where it was written live and does not say."""
    position = 0
    for _ in range(2):  # EBML header, segment
        video.seek(position)
        head = video.read(16)
        if len(head) < 6:
            return position + 6
        length_bytes = 9 - head[4].bit_length()
        length = int.from_bytes(head[4 : 4 + length_bytes], "big") & ((1 << 7 * length_bytes) - 1)
        unknown = length == (1 << 7 * length_bytes) - 1
        position += 4 + length_bytes + length
    return 0 if unknown else position


def _reason(error: Any) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)


# The process.


def warm_up() -> None:
    """Import all that decoding may want, which cannot be opened later."""
    import av

    for name in ("video.reformatter", "video.stream", "audio.stream", "subtitles.stream", "sidedata.sidedata"):
        importlib.import_module(f"av.{name}")
    av.logging.set_level(None)
    av.logging.restore_default_callback()
    av.logging.set_libav_level(-8)  # AV_LOG_QUIET
    "".encode("idna")


def send(buffers: list[Any]) -> None:
    """Write all of the buffers; a full pipe takes them in parts."""
    waiting = [memoryview(buffer).cast("B") for buffer in buffers]
    while waiting:
        written = os.writev(FRAMES, waiting)
        while waiting and written >= len(waiting[0]):
            written -= len(waiting.pop(0))
        if waiting:
            waiting[0] = waiting[0][written:]


def main(arguments: Sequence[str]) -> None:
    """Arguments: the descriptor of the video, and limits: address space in bytes, pixels of a frame."""
    descriptor, max_memory, max_pixels = map(int, arguments)
    try:
        warm_up()
        gc.freeze()  # what is there stays: collecting looks at what comes
        size = os.fstat(descriptor).st_size
        end_with_parent(CONTROL)
        sandboxed = lock_in(max_memory)
        for buffers in decode(Input(descriptor), size, max_pixels, sandboxed):
            send(buffers)
    except BrokenPipeError:  # the parent wants no more
        pass
    except Unreadable as error:
        send(message(FAIL, str(error).encode()))
    except MemoryError:
        send(message(FAIL, f"decoding needs more than {max_memory:,} bytes of memory".encode()))
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        send(message(FAIL, f"cannot be decoded ({type(error).__name__}: {text})".encode()))


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])  # where PyAV is
    main(sys.argv[2:])
    os._exit(0)  # what Python would tidy up is not allowed any more
