"""SPECs: what each means, and one clear error for each mistake."""

from __future__ import annotations

import pytest

from bitrate_ext.comparison.spec import Spec, check_references, parse_options, parse_spec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("demo", Spec("demo", quality=5)),
        ("demo:3.25", Spec("demo", quality=3.25)),
        ("demo,bytes=a", Spec("demo", same_bytes="a")),
        ("demo,bytes=12000", Spec("demo", same_bytes=12000.0)),
        ("mbt2018-mean:4,bits=coded,padding=reflect", Spec("mbt2018-mean", quality=4, bits="coded", padding="reflect")),
        ("mbt2018-mean,quality=4,metric=ms-ssim", Spec("mbt2018-mean", quality=4, metric="ms-ssim")),
        ("mbt2018-mean,bytes=b", Spec("mbt2018-mean", same_bytes="b")),
        ("mbt2018-vbr:2.5", Spec("mbt2018-vbr", quality=2.5)),
        ("mbt2018-vbr", Spec("mbt2018-vbr")),
        ("checkpoint=a,b/c.pth,key=net", Spec(checkpoint="a,b/c.pth", key="net")),
        ("mbt2018,checkpoint=c.pth", Spec("mbt2018", checkpoint="c.pth")),
        ("checkpoint=c.pth,model=mbt2018", Spec("mbt2018", checkpoint="c.pth")),
        ("model=my.codecs:Codec,projection=guided", Spec("my.codecs:Codec", projection="guided")),
        ("my.codecs:jpeg:75,name=JPEG, old", Spec(function="my.codecs:jpeg", quality=75, name="JPEG, old")),
        ("some folder/jpeg.py:encode,bytes=a", Spec(function="some folder/jpeg.py:encode", same_bytes="a")),
    ],
)
def test_what_a_spec_means(text: str, expected: Spec) -> None:
    assert parse_spec(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got nothing"),
        ("bits=coded", "a SPEC names a codec first, or checkpoint=FILE, got 'bits=coded'; the demo codec is demo,bits"),
        ("jpeg", "a codec is demo, a model of CompressAI's zoo .*, got 'jpeg'"),
        ("my.pth", "weights are given as checkpoint=my.pth"),
        ("demo:9", "quality of the demo codec must be from 1 to 8, got 9"),
        ("demo:high", "quality must be a number, got 'high'"),
        ("demo:nan", "quality must be a number, got 'nan'"),
        ("demo:", "quality= has no value"),
        ("mbt2018", "quality of 'mbt2018' must be one of 1, 2, .*got None"),
        ("mbt2018:2.5", "quality of 'mbt2018' must be one of 1, 2, .*got 2.5"),
        ("demo,bit=coded", "'bit=coded' is none of the options: quality=, bytes=, "),
        ("demo,coded", "got 'demo,coded'"),
        ("demo,", "'' is none of the options"),
        ("demo,bits=real", "bits must be one of 'estimated', 'coded', got 'real'"),
        ("demo,padding=all", "padding must be one of 'zeros', "),
        ("demo,projection=jacobian", "projection must be one of 'nearest', "),
        ("demo:3,quality=4", "quality= is given twice, '3' and '4'"),
        ("demo:3,bytes=a", "quality=3 and bytes=a exclude each other"),
        ("demo,bytes=many", "bytes must be the letter of another codec, such as a, or a number of bytes, got 'many'"),
        ("demo,bytes=-1", "bytes must be the letter"),
        ("demo,key=net", "key=net needs checkpoint=FILE"),
        ("checkpoint=c.pth,bytes=a", "bytes=a is not for a checkpoint, which has one rate"),
        ("model=m:C,quality=3", "quality=3.* is not for a model of one's own"),
        ("m:f,bits=coded", "'bits=coded' is none of the options of a codec function: quality=, bytes=, name="),
    ],
)
def test_one_error_for_each_mistake(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


def test_options_of_codecs_given_in_python() -> None:
    assert parse_options("bytes=a,name=JPEG", function=True) == Spec(same_bytes="a", name="JPEG")
    assert parse_options("bits=coded", function=False) == Spec(bits="coded")
    with pytest.raises(ValueError, match="'bits=coded' is none of the options"):
        parse_options("bits=coded", function=True)


def test_order_in_which_codecs_run() -> None:
    first, after = Spec("demo", quality=3), Spec("demo", same_bytes="a")
    assert check_references({"a": first, "b": after}) == ["a", "b"]
    specs = {"a": Spec("demo", same_bytes="c"), "b": Spec("demo", same_bytes="a"), "c": first}
    assert check_references(specs) == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("same", "message"),
    [
        ({"a": None}, "two codecs are compared at least, got 1"),
        ({"a": None, "b": "c"}, "b: bytes=c names no other codec of this comparison; there is bytes=a"),
        ({"a": None, "b": "b"}, "b: bytes=b names no other codec"),
        ({"a": "b", "b": "a"}, "a and b wait for each other's bytes; one of them needs a quality"),
    ],
)
def test_bytes_of_none(same: dict[str, str | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_references({letter: Spec("demo", same_bytes=other) for letter, other in same.items()})
