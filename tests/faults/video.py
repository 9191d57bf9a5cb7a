"""Faults in reading and writing videos, and in the lock of the decoder."""

from __future__ import annotations

from . import Fault

READER, DECODER = "bitrate_ext/video/reader.py", "bitrate_ext/video/decoder.py"
WRITER = "bitrate_ext/video/writer.py"

LOCK = [
    Fault(
        "system calls denied that are not on a list",
        DECODER,
        "    step(RETURN, DENY | errno.EPERM)\n    return b",
        "    step(RETURN, ALLOW)\n    return b",
        "test_video_decoder.py::test_a_child_that_is_locked_in_can_open_nothing",
    ),
    Fault(
        "numbers of another processor",
        DECODER,
        "step(JUMP_EQUAL, numbers[column], no=1)",
        "step(JUMP_EQUAL, numbers[0], no=1)",
        "test_video_decoder.py::test_the_filter_of_both_processors",
    ),
    Fault(
        "processes made like threads",
        DECODER,
        "when_argument(CLONE[column], JUMP_SET, CLONE_THREAD)",
        "when_argument(CLONE[column], JUMP_SET, 0xFFFFFFFF)",
        "test_video_decoder.py::test_a_child_that_is_locked_in_can_open_nothing",
    ),
    Fault(
        "other threads left unlocked",
        DECODER,
        "PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, ALL_THREADS = 38, 1, 1",
        "PR_SET_NO_NEW_PRIVS, SECCOMP_SET_MODE_FILTER, ALL_THREADS = 38, 1, 0",
        "test_video_decoder.py::test_a_child_that_is_locked_in_can_open_nothing",
    ),
    Fault(
        "descriptors without limit",
        DECODER,
        "(resource.RLIMIT_NOFILE, 0),",
        "(resource.RLIMIT_NOFILE, 1024),",
        "test_video_decoder.py::test_without_the_filter_limits_remain",
    ),
    Fault(
        "children that outlive their parent",
        DECODER,
        "fcntl.fcntl(control, fcntl.F_GETFL) | os.O_ASYNC)",
        "fcntl.fcntl(control, fcntl.F_GETFL))",
        "test_video_decoder.py::test_a_busy_child_ends_with_its_parent[False]",
    ),
    Fault(
        "any container read",
        DECODER,
        '"format_whitelist": ",".join(CONTAINERS), ',
        "",
        "test_hostile_video.py::test_a_container_that_is_not_on_the_list",
    ),
]

DECODING = [
    Fault(
        "cut files taken for whole",
        DECODER,
        "return [CUT] if end > size else []",
        "return []",
        "test_hostile_video.py::test_cut_anywhere[mkv]",
    ),
    Fault(
        "lost packets unsaid",
        DECODER,
        "            lost += 1\n",
        "",
        "test_hostile_video.py::test_a_packet_that_cannot_be_decoded_is_said",
    ),
    Fault(
        "damage passed over in silence",
        DECODER,
        "turn_of(frame), bool(frame.is_corrupt))",
        "turn_of(frame), False)",
        "test_hostile_video.py::test_frames_that_are_made_up_are_marked",
    ),
    Fault(
        "frames that grow beyond the limit",
        DECODER,
        'context.options = {"max_pixels": str(max_pixels)}',
        "context.options = {}",
        "test_hostile_video.py::test_a_video_that_grows_beyond_the_limit_ends_there",
    ),
    Fault(
        "turned the other way",
        DECODER,
        "TRANSPOSED | MIRRORED * (c < 0) | FLIPPED * (b < 0)",
        "TRANSPOSED | MIRRORED * (b < 0) | FLIPPED * (c < 0)",
        "test_video_reader.py::test_frames_are_turned_as_they_are_to_be_shown[a quarter clockwise]",
    ),
    Fault(
        "one matrix for all colours",
        DECODER,
        "    if frame.colorspace == UNSPECIFIED:\n        matrix",
        "    if True:\n        matrix",
        "test_video_writer.py::test_colours_come_back[small]",
    ),
]

READING = [
    Fault(
        "times that go back",
        READER,
        "            if ticks < self._last:",
        "            if False:",
        "test_video_reader.py::test_clock",
    ),
    Fault(
        "a change of size passed on",
        READER,
        "            if frame.pixels.shape[:2] != size:",
        "            if False:",
        "test_video_reader.py::test_ends[with another size]",
    ),
    Fault(
        "a dead decoder taken for the end",
        READER,
        'self._end(f"{silence.reason} after {index} frames")',
        "self._end()",
        "test_video_reader.py::test_ends[by a signal]",
    ),
    Fault(
        "waiting anew for each part of a frame",
        READER,
        "left = self._deadline - time.monotonic()",
        "left = self._timeout",
        "test_video_reader.py::test_a_child_that_drips",
    ),
    Fault(
        "a child's sizes believed",
        READER,
        "sound = 0 < width * height <= self._max_pixels and",
        "sound =",
        "test_video_reader.py::test_nonsense_ends_the_video[more pixels than allowed]",
    ),
    Fault(
        "children left running",
        READER,
        "            process.kill()\n            process.wait()\n",
        "",
        "test_video_reader.py::test_closing_ends_the_child",
    ),
]

WRITING = [
    Fault(
        "written under the final name",
        WRITER,
        'self._target.with_name(f".{self._target.name}.{os.getpid()}.partial")',
        "self._target",
        "test_video_writer.py::test_under_its_name_only_when_it_is_whole",
    ),
    Fault(
        "frames kept until there is no room",
        DECODER,
        "            gc.collect()",
        "            pass",
        "test_video_decoder.py::test_decoded_frames_are_let_go",
    ),
    Fault(
        "black beside odd pictures",
        WRITER,
        "self._rows[: self.height, row : row + 3] = pixels[:, -1]",
        "self._rows[: self.height, row : row + 3] = 0",
        "test_video_writer.py::test_odd_sides_get_their_last_row_twice[size0]",
    ),
    Fault(
        "errors of the disk kept quiet",
        WRITER,
        "            self._container.close()\n            os.fsync",
        "            with contextlib.suppress(OSError):\n                self._container.close()\n            os.fsync",
        "test_video_writer.py::test_a_full_disk_is_said_and_leaves_nothing[mp4]",
    ),
]

FAULTS = [*LOCK, *DECODING, *READING, *WRITING]
