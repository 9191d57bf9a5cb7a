"""The child of ``VideoReader``: decodes one video in a process that has locked itself in, and writes frames to a pipe.

Run as a folder, with the standard library and PyAV alone: never torch, never the rest of the package, so modules in
here import their neighbours only. The video comes as an open descriptor: FFmpeg is given neither names nor protocols.
Before its first byte is read, the process gives up all but memory, threads, the video and the pipe. The parent trusts
nothing that it says.
"""
