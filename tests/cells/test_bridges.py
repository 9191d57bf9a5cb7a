"""Block maps as CSV, npy and YUView's statistics: round trips, files made elsewhere, the grammar, bad files."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitrate_ext import BitrateMapper, CellGrid, PictureBits, load_demo_codec
from bitrate_ext.cells.bridges import read_blocks, read_yuview, write_blocks, write_yuview


def two_latents(crop: tuple[int, int, int, int] = (0, 0, 19, 29)) -> PictureBits:
    """8 x 8 and 16 x 16 pixels, 2 x 2 of the coarser; names and numbers that are hard to write."""
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(4, 4, dtype=torch.float64, generator=generator) * 100
    coarse = torch.rand(2, 2, dtype=torch.float64, generator=generator)
    elsewhere = {"markers, tables; metadata": 1 / 3, "padding of last bytes": 7.0}
    total = float(fine.sum() + coarse.sum()) + sum(elsewhere.values())
    made = PictureBits(
        {"Y": CellGrid(fine), "Cb,Cr": CellGrid(coarse)}, (32, 32), crop, "a name", "estimated", elsewhere
    )
    elsewhere["rest"] = 8 * (int(total / 8) + 1) - total
    return replace(made, elsewhere=elsewhere, file_bytes=int(total / 8) + 1)


CROPS = [(0, 0, 19, 29), (5, 3, 19, 29), (0, 0, 32, 32)]


@pytest.mark.parametrize("crop", CROPS)
def test_csv_gives_the_same_back(crop: tuple[int, int, int, int], tmp_path: Path) -> None:
    bits = two_latents(crop)
    write_blocks(bits, tmp_path / "map.csv")
    back = read_blocks(tmp_path / "map.csv")
    assert list(back.grids) == list(bits.grids)
    assert all(torch.equal(back.grids[name].bits, grid.bits) for name, grid in bits.grids.items())
    same = ("canvas", "crop", "name", "kind", "elsewhere", "file_bytes", "closes", "padding_bits")
    assert [getattr(back, one) for one in same] == [getattr(bits, one) for one in same]
    assert bits.closes


@pytest.mark.parametrize("crop", CROPS)
def test_npy_gives_the_map_back(crop: tuple[int, int, int, int], tmp_path: Path) -> None:
    bits = two_latents(crop)
    write_blocks(bits, tmp_path / "map.npy")
    assert np.load(tmp_path / "map.npy").shape == (4, 4)
    back = read_blocks(tmp_path / "map.npy", block=(8, 8), origin=crop[:2], size=crop[2:])
    torch.testing.assert_close(back.map(), bits.map(), rtol=1e-14, atol=1e-14)
    assert back.total_bits == pytest.approx(sum(bits.latent_bits.values()), rel=1e-14)
    assert read_blocks(tmp_path / "map.npy", size=(32, 32)).canvas == (32, 32)


@pytest.mark.parametrize("crop", CROPS)
def test_yuview_gives_the_map_back_in_thousandths(crop: tuple[int, int, int, int], tmp_path: Path) -> None:
    bits = two_latents(crop)
    write_yuview(bits, tmp_path / "map.csv", frame=3)
    check_grammar(tmp_path / "map.csv")
    back = read_yuview(tmp_path / "map.csv", frame=3)
    assert back.size == back.canvas == bits.size
    assert (back.name, back.kind, back.file_bytes) == (bits.name, bits.kind, bits.file_bytes)
    for name in bits.grids:  # a block is of at least one pixel
        torch.testing.assert_close(back.map(name), bits.map(name), rtol=0, atol=0.001)
        assert float(back.map(name).sum()) == pytest.approx(float(bits.map(name).sum()), abs=0.00051)
    assert back.elsewhere["padding"] == pytest.approx(bits.padding_bits, abs=0.0011)
    assert back.total_bits == pytest.approx(bits.total_bits, rel=1e-14)
    assert back.closes


def test_a_codec_of_whole_bits_loses_nothing(tmp_path: Path) -> None:
    bits = replace(two_latents((0, 0, 32, 32)), elsewhere={}, file_bytes=None)
    bits = replace(bits, grids={name: CellGrid(grid.bits.round()) for name, grid in bits.grids.items()})
    write_yuview(bits, tmp_path / "map.csv")
    back = read_yuview(tmp_path / "map.csv")
    assert all(torch.equal(back.grids[name].bits, grid.bits) for name, grid in bits.grids.items())
    assert back.elsewhere == {"padding": 0}


@pytest.mark.medium
def test_bits_of_a_learned_codec(tmp_path: Path) -> None:
    result = BitrateMapper(load_demo_codec(), bits="coded")(torch.rand(1, 3, 70, 90))
    bits = result.image()
    write_blocks(bits, tmp_path / "map.csv")
    back = read_blocks(tmp_path / "map.csv")
    assert all(torch.equal(back.grids[name].bits, grid.bits) for name, grid in bits.grids.items())
    assert back.closes
    write_yuview(bits, tmp_path / "map.csv")
    check_grammar(tmp_path / "map.csv")
    assert read_yuview(tmp_path / "map.csv").closes


ROW = r"(\d+);(\d+);(\d+);([1-9]\d*);([1-9]\d*);(\d+);(-?\d+)"


def check_grammar(path: Path) -> None:
    """The grammar of the Statistics Extension Syntax, by YUView's wiki, and what its reader asks besides."""
    text = path.read_text()
    assert text.endswith("\n")  # a row without one is not seen
    lines = text.splitlines()
    assert re.fullmatch(r"%;syntax-version;v\d+\.\d+", lines[0])
    specs = re.fullmatch(r"%;seq-specs;([^;]+);\d+;(\d+);(\d+);\d+(\.\d+)?", lines[1])
    assert specs
    width, height = int(specs[2]), int(specs[3])
    types: dict[int, tuple[int, int]] = {}
    rows, groups = [], []
    for line in lines[2:]:
        assert " " not in line.split(";")[0]
        if row := re.fullmatch(ROW, line):
            frame, x, y, wide, high, which, value = map(int, row.groups())
            assert x + wide <= width
            assert y + high <= height
            low, most = types[which]
            assert low <= value <= most
            assert abs(value) < 2**31
            rows.append(row)
            if groups[-1:] != [(frame, which)]:
                groups.append((frame, which))
        elif line.startswith("%;%;"):
            pass  # a comment
        elif named := re.fullmatch(r"%;type;(\d+);[^;]+;range", line):
            assert not rows  # the header ends with the first row of data
            assert int(named[1]) not in types
            last = int(named[1])
        else:
            ranged = re.fullmatch(r"%;defaultRange;(-?\d+);(\d+);jet", line)
            assert ranged
            types[last] = (int(ranged[1]), int(ranged[2]))
            assert types[last][0] < types[last][1]
    assert len(groups) == len(set(groups)) == len(types)  # all of a frame and type are together


ELSEWHERE = """%;syntax-version;v1.2
%;seq-specs;coded by another;0;64;48;25;
%;type;9;MVDL0;vector;
%;vectorColor;100;0;0;255
%;scaleFactor;4
%;type;0;PredMode;range;
%;defaultRange;0;1;jet
%;type;1;Bits;range;
%;range;0;900;0;255;0;0;0;0;255;255
%;gridColor;255;255;255;
0;0;0;64;48;0;1
1;0;0;32;32;0;1
1;32;0;32;32;0;0
1;0;32;64;16;0;0
1;0;0;16;16;9;-3;7
1;0;0;32;32;1;100
1;32;0;16;32;1;40
1;48;0;16;16;1;8
1;48;16;16;16;1;4
1;0;32;64;16;1;0;
"""


def test_a_file_made_elsewhere(tmp_path: Path) -> None:
    """A quadtree of HEVC's kind, in whole bits, beside types that are none."""
    path = tmp_path / "stats.csv"
    path.write_text(ELSEWHERE)
    bits = read_yuview(path, types=["Bits"], frame=1)
    assert bits.grids["Bits"].bits.tolist() == [[25, 25, 20, 8], [25, 25, 20, 4], [0, 0, 0, 0]]
    assert (bits.canvas, bits.size, bits.kind, bits.name) == ((48, 64), (48, 64), "coded", "stats")
    assert float(bits.map().sum()) == pytest.approx(152, rel=1e-14)
    assert read_yuview(path, types=["Bits"], frame=1, per_bit=1000).total_bits == pytest.approx(0.152, rel=1e-14)
    with pytest.raises(ValueError, match="types must be those of 'PredMode', 'Bits' that are bits, got None"):
        read_yuview(path, frame=1)
    with pytest.raises(ValueError, match=r"got \['MVDL0'\]"):
        read_yuview(path, types=["MVDL0"], frame=1)
    with pytest.raises(ValueError, match="no blocks of 'Bits' in frame 7"):
        read_yuview(path, types=["Bits"], frame=7)


def test_a_list_made_elsewhere(tmp_path: Path) -> None:
    """Superblocks that go on below the picture, columns in another order, no latents, no size."""
    path = tmp_path / "av1.csv"
    path.write_text("bits, x, y, width, height, mode\n8,0,0,8,8,dc\n\n2.5,8,0,8,8,dc\n4,0,8,16,8,paeth\n")
    bits = read_blocks(path, size=(12, 16))
    assert bits.grids["bits"].bits.tolist() == [[8, 2.5], [2, 2]]
    assert (bits.canvas, bits.crop, bits.padding_bits) == ((16, 16), (0, 0, 12, 16), 2)
    assert read_blocks(path).size == (16, 16)


blocks = st.tuples(st.integers(-9, 30), st.integers(-9, 30), st.integers(1, 20), st.integers(1, 20), st.floats(0, 1e6))


@pytest.mark.medium
@settings(max_examples=60, deadline=None)
@given(st.lists(blocks, min_size=1, max_size=30), st.integers(1, 40), st.integers(1, 40))
def test_any_blocks_conserve_their_bits(
    tmp_path_factory: pytest.TempPathFactory, some: list[tuple[int, int, int, int, float]], height: int, width: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    rows = (f"{x},{y},{wide},{high},{bits!r}\n" for x, y, wide, high, bits in some)
    path.write_text("x,y,width,height,bits\n" + "".join(rows))
    found = read_blocks(path, size=(height, width))
    expected = np.zeros((80, 80))
    for x, y, wide, high, bits in some:
        expected[y + 10 : y + high + 10, x + 10 : x + wide + 10] += bits / (wide * high)
    assert found.total_bits == pytest.approx(sum(one[4] for one in some), rel=1e-12, abs=1e-12)
    shown = expected[10 : 10 + height, 10 : 10 + width]
    np.testing.assert_allclose(found.map().numpy(), shown, rtol=1e-9, atol=1e-9)
    write_blocks(found, path)
    back = read_blocks(path)
    torch.testing.assert_close(back.map(), found.map(), rtol=1e-12, atol=1e-12)
    write_yuview(found, path)
    check_grammar(path)
    assert read_yuview(path).total_bits == pytest.approx(found.total_bits, rel=1e-12, abs=1e-12)


HEADER = "x,y,width,height,latent,bits\n"
BAD_CSV = {
    "nothing": ("", "must have blocks: it has none"),
    "no blocks": (HEADER, "must have blocks: it has none"),
    "another table": ("a,b\n1,2\n", r"line 1, 'a,b': columns x, y, width, .* x, y, width, height, bits missing"),
    "a word": (HEADER + "0,0,8,8,Y,1\n0,a,8,8,Y,1\n", r"line 3, '0,a,8,8,Y,1': y must be a whole number, got 'a'"),
    "a short row": (HEADER + "0,0,8\n", "line 2, '0,0,8': height must be a whole number from 1 on, got None"),
    "no width": (HEADER + "0,0,0,8,Y,1\n", "width must be a whole number from 1 on, got '0'"),
    "infinite": (HEADER + "0,0,8,8,Y,inf\n", "bits must be a number, got 'inf'"),
    "too large": (HEADER + "0,0,1,1,Y,1\n999999,999999,1,1,Y,2\n", "need 1000000 x 1000000 cells, more than"),
    "beyond any number": (HEADER + f"{10**30},0,1,1,Y,1\n", "x must be"),
    "YUView's": (ELSEWHERE, "a file of YUView's: read_yuview reads it"),
    "facts": ("#,size,a,3\n" + HEADER + "0,0,1,1,Y,1\n", "line 1, '#,size,a,3'"),
    "a long row": ("1" * 200_000, "field larger than field limit"),
    "bytes": ("\0\1\2\3", "columns x, y, width|line contains NUL"),  # as Python 3.10 says
}


@pytest.mark.parametrize("kind", BAD_CSV)
def test_bad_csv(kind: str, tmp_path: Path) -> None:
    text, message = BAD_CSV[kind]
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_blocks(tmp_path / "bad.csv")
    assert str(tmp_path / "bad.csv") in str(error.value)


START = "%;type;0;Bits;range;\n"
BAD_YUVIEW = {
    "nothing": ("", "must be a file of YUView's statistics"),
    "another table": (HEADER, r"line 1, .*: POC;x;y;width;height;type;value was expected"),
    "no type": ("0;0;0;8;8;0;3\n", "must be a file of YUView's statistics"),
    "a word": (START + "0;0;q;8;8;0;3\n", "line 2, .*: y must be a whole number, got 'q'"),
    "a word for a frame": (START + "q;0;0;8;8;0;3\n", "POC must be a whole number, got 'q'"),
    "a word for a type": (START + "0;0;0;8;8;t;3\n", "type must be a whole number, got 't'"),
    "a short row": (START + "0;0;0;8\n", "POC;x;y;width;height;type;value was expected"),
    "no frame": (START + "2;0;0;8;8;0;3\n", "no blocks of 'Bits' in frame 0"),
    "an empty block": (START + "0;0;0;8;0;0;3\n", "height must be a whole number from 1 on, got '0'"),
}


@pytest.mark.parametrize("kind", BAD_YUVIEW)
def test_bad_yuview(kind: str, tmp_path: Path) -> None:
    text, message = BAD_YUVIEW[kind]
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_yuview(tmp_path / "bad.csv")


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (np.zeros(3), {}, r"must be \[h, w\], finite numbers, got float64 \[3\]"),
        (np.zeros((2, 2), complex), {}, "got complex128"),
        (np.full((2, 2), np.nan), {}, "finite"),
        (np.zeros((2, 2)), {}, "block must be given, or a size that is 2 x 2 blocks, got size None"),
        (np.zeros((2, 2)), {"size": (3, 4)}, r"got size \(3, 4\)"),
        (np.zeros((2, 2)), {"block": (4, 4), "size": (9, 9)}, "crop must be"),
        (np.array([[{}]], dtype=object), {}, "must be an array of numbers"),
    ],
)
def test_bad_npy(array: np.ndarray, arguments: dict[str, tuple[int, int]], message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "bad.npy", array)
    with pytest.raises(ValueError, match=message):
        read_blocks(tmp_path / "bad.npy", **arguments)  # type: ignore[arg-type]


def test_bad_arguments(tmp_path: Path) -> None:
    bits = two_latents()
    with pytest.raises(ValueError, match=r"path must end in .csv or .npy, got '.*map.txt'"):
        write_blocks(bits, tmp_path / "map.txt")
    uneven = PictureBits({"Y": CellGrid(torch.zeros(3, 2))}, (32, 32), (0, 0, 32, 32))
    for name, write in (("map.csv", write_blocks), ("map.npy", write_blocks), ("map.csv", write_yuview)):
        with pytest.raises(ValueError, match="cells of 'Y' must be whole pixels, got 3 x 2 cells on 32 x 32 pixels"):
            write(uneven, tmp_path / name)
    many = PictureBits({"Y": CellGrid(torch.full((1, 1), 3e6))}, (8, 8), (0, 0, 8, 8))
    with pytest.raises(ValueError, match="latent 'Y' must have at most 2,147,484 bits in a cell"):
        write_yuview(many, tmp_path / "map.csv")
    (tmp_path / "no.npy").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="must be an array of numbers in NumPy's format"):
        read_blocks(tmp_path / "no.npy")
    write_blocks(bits, tmp_path / "map.csv")
    with pytest.raises(ValueError, match=r"block and origin are for .npy alone"):
        read_blocks(tmp_path / "map.csv", block=(8, 8))
    with pytest.raises(FileNotFoundError):
        read_blocks(tmp_path / "none.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.csv", "no.npy"]  # nothing half written
