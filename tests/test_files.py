"""Saved files: whole or not at all, never silently different, and refused by name where they are something else."""

from __future__ import annotations

import io
import json
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

import vila_lab
from vila_lab import gallery, wire, writing
from vila_lab.engine.record import Record
from vila_lab.errors import FileAccessError, FileError, OptionError, SavedFileNotFound, VilaLabError
from vila_lab.picture import Picture
from vila_lab.writing import write_file


@pytest.fixture(scope="module")
def answer() -> vila_lab.Answer:
    demo = vila_lab.demo_images()
    return vila_lab.load().ask([demo / "g.png", demo / "m.png", "What is in image 2?"], max_new_tokens=2)


@pytest.fixture(scope="module")
def saved(answer, tmp_path_factory) -> bytes:
    return answer.save(tmp_path_factory.mktemp("saved") / "a.vila").read_bytes()


def fingerprint(opened: vila_lab.Answer) -> Any:
    return (
        opened.text,
        opened.tokens,
        opened.parts,
        opened.notes,
        opened.model,
        opened.edits,
        opened.head_sets,
        [image.tobytes() for image in opened.images],
        opened.attention().to_numpy().tobytes(),
        opened.ledger().to_numpy().tobytes(),
        opened.sinks().tobytes() if callable(opened.sinks) else bytes(opened.sinks),
    )


def names_in(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def one_sentence(error: BaseException) -> bool:
    return isinstance(error, VilaLabError) and "\n" not in str(error)


# -- damage --------------------------------------------------------------------------------------------------------------


def test_300_flipped_bytes_are_each_an_error(saved, tmp_path):
    path, rng = tmp_path / "a.vila", random.Random(0)
    header = 8 + int.from_bytes(saved[:8], "little")
    places = [rng.randrange(header) for _ in range(150)] + [rng.randrange(len(saved)) for _ in range(150)]
    for place in places:
        damaged = bytearray(saved)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(FileError) as caught:
            vila_lab.open(path)
        assert one_sentence(caught.value), place


def test_a_file_that_was_cut_or_grew_is_an_error(saved, tmp_path):
    path = tmp_path / "a.vila"
    for length in [*range(0, len(saved), 64 * 40), len(saved) - 1]:
        path.write_bytes(saved[:length])
        with pytest.raises(FileError):
            vila_lab.open(path)
    path.write_bytes(saved + b"\0")
    with pytest.raises(FileError):
        vila_lab.open(path)


def test_a_cut_at_every_64th_byte_is_noticed_by_the_reader(saved):
    for length in range(0, len(saved), 64):
        with pytest.raises(FileError), wire.parsing(saved[:length], "vila_lab", "answer", "x"):
            pass


def test_the_whole_file_is_the_same_answer(saved, answer, tmp_path):
    path = tmp_path / "a.vila"
    path.write_bytes(saved)
    assert fingerprint(vila_lab.open(path)) == fingerprint(vila_lab.open(answer.save(tmp_path / "b.vila")))


def test_zeros_in_the_words_are_not_taken_for_the_sum(answer, tmp_path):
    notes = [wire.ZEROS, f'"{wire.CHECKSUM}":"{wire.ZEROS}"']
    zeros = vila_lab.Answer(Record(**(vars_of(answer) | {"notes": notes})))
    assert vila_lab.open(zeros.save(tmp_path / "a.vila")).notes == zeros.notes


def vars_of(answer: vila_lab.Answer) -> dict[str, Any]:
    names = ("text", "tokens", "images", "token_map", "parts", "notes", "model", "edits", "head_sets")
    return {name: getattr(answer, name) for name in names} | {
        "norms": answer.record.norms,
        "tape": answer.record.tape(),
    }


# -- fields --------------------------------------------------------------------------------------------------------------


def changed(saved: bytes, change: Callable[[dict[str, Any], dict[str, Any]], Any], version: int = 3) -> bytes:
    """The file with other fields, and a sum that is right."""
    length = int.from_bytes(saved[:8], "little")
    header = json.loads(json.loads(saved[8 : 8 + length])["__metadata__"]["vila_lab"])
    tensors = load(saved)
    header["format"] = version
    change(header, tensors)
    metadata = {"vila_lab": json.dumps(header)} | ({wire.CHECKSUM: wire.ZEROS} if version > 1 else {})
    data = save(tensors, metadata)
    if version == 1:
        return data
    start = wire.place_of_sum(data)
    return data[:start] + wire.sum_of(data).encode() + data[start + 64 :]


def eps(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    tensors["image.0"] = torch.tensor(list(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), dtype=torch.uint8)


def tiff(header: dict[str, Any], tensors: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (256, 256)).save(buffer, "TIFF")
    tensors["image.0"] = torch.from_numpy(np.frombuffer(buffer.getvalue(), np.uint8).copy())


WRONG: dict[str, Callable[[dict[str, Any], dict[str, Any]], Any]] = {
    **{
        f"no {name}": lambda h, t, name=name: h.pop(name)
        for name in ("text", "tokens", "parts", "notes", "model", "tape")
    },
    **{
        f"no {name}": lambda h, t, name=name: t.pop(name)
        for name in ("norms", "map.kind", "image.1", "tape.text.0.key")
    },
    "text is a number": lambda h, t: h.update(text=3),
    "tokens are a number": lambda h, t: h.update(tokens=3),
    "a token has no id": lambda h, t: h["tokens"][0].pop("id"),
    "a token stands nowhere": lambda h, t: h["tokens"][0].update(position=10**9),
    "a token's id is a word": lambda h, t: h["tokens"][0].update(id="x"),
    "a part is beyond": lambda h, t: h["parts"].append(9),
    "a part is null": lambda h, t: h["parts"].append(None),
    "sizes disagree": lambda h, t: h.update(sizes=[[999, 1], [2, 2]]),
    "sizes are missing": lambda h, t: h.update(sizes=[]),
    "a size is enormous": lambda h, t: h.update(sizes=[[10**6, 10**6], [256, 256]]),
    "a picture is cut": lambda h, t: t.update({"image.0": t["image.0"][:3000].clone()}),
    "a picture is PostScript": eps,
    "a picture is a TIFF": tiff,
    "pixels of another size": lambda h, t: t.update({"image.0": torch.zeros((256, 255, 3), dtype=torch.uint8)}),
    "pixels of another type": lambda h, t: t.update({"image.0": torch.zeros((256, 256, 3))}),
    "an original is enormous": lambda h, t: h.update(written_sizes=h["sizes"], sizes=[[10**6, 10**6], [256, 256]]),
    "the tape is longer": lambda h, t: h["tape"].update(length=102),
    "the tape is shorter": lambda h, t: h["tape"].update(length=7),
    "the tape has a row less": lambda h, t: h["tape"]["positions"].pop(),
    "the tape is elsewhere": lambda h, t: h["tape"].update(positions=[0, 1]),
    "the tape has another format": lambda h, t: h["tape"].update(format=99),
    "the tape has no layers": lambda h, t: h["tape"].pop("layers"),
    "a tape's tensor has another shape": lambda h, t: t.update({"tape.text.0.query": torch.zeros(1)}),
    "norms are a table": lambda h, t: t.update(norms=torch.zeros(2, 2)),
    "means of other tokens": lambda h, t: t.update(layer_means=torch.zeros(9, 6, 102)),
    "boxes are flat": lambda h, t: t.update({"map.box": torch.zeros(102, 3)}),
    "a map is shorter": lambda h, t: t.update({"map.kind": torch.zeros(3, dtype=torch.int8)}),
    "head sets are a list": lambda h, t: h.update(head_sets=[1]),
    "edits are numbers": lambda h, t: h.update(edits=[1]),
}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_or_missing_field_is_said(wrong, version, saved, tmp_path):
    path = tmp_path / "a.vila"
    path.write_bytes(changed(saved, WRONG[wrong], version))
    with pytest.raises(FileError, match=r"a\.vila is damaged, or made by a newer vila_lab") as caught:
        vila_lab.open(path)
    assert one_sentence(caught.value)


def test_fields_of_a_newer_version_are_passed_over(saved, tmp_path):
    def newer(header: dict[str, Any], tensors: dict[str, Any]) -> None:
        header["colour"] = "blue"
        header["tokens"][0]["entropy"] = 0.5
        tensors["more"] = torch.zeros(2)

    (tmp_path / "a.vila").write_bytes(changed(saved, newer))
    (tmp_path / "b.vila").write_bytes(saved)
    assert fingerprint(vila_lab.open(tmp_path / "a.vila")) == fingerprint(vila_lab.open(tmp_path / "b.vila"))


def test_a_newer_format_is_refused_by_name(saved, tmp_path):
    (tmp_path / "a.vila").write_bytes(changed(saved, lambda h, t: h.update(format=4)))
    with pytest.raises(FileError, match="of format 4, of a newer vila_lab; update"):
        vila_lab.open(tmp_path / "a.vila")


def test_a_file_from_before_there_was_a_checksum_opens_with_a_note(saved, answer, tmp_path):
    def forged(header: dict[str, Any], tensors: dict[str, Any]) -> None:
        tensors["layer_means"] = torch.zeros_like(tensors["layer_means"])

    (tmp_path / "a.vila").write_bytes(changed(saved, forged, version=1))
    opened = vila_lab.open(tmp_path / "a.vila")
    assert wire.UNCHECKED in opened.notes
    np.testing.assert_allclose(opened.ledger(), answer.ledger(), atol=1e-6)  # computed again rather than believed


def test_a_file_without_its_sum_is_damaged(saved, tmp_path):
    for other in (
        saved.replace(b"vila_lab_sha256", b"vila_lab_sha257"),
        saved.replace(b'\\"format\\": 3', b'\\"format\\": 1'),
    ):
        assert other != saved
        (tmp_path / "a.vila").write_bytes(other)
        with pytest.raises(FileError, match="damaged"):
            vila_lab.open(tmp_path / "a.vila")


def test_an_enormous_header_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "a.vila"
    body = b'{"__metadata__":{"vila_lab":"[' + b"[]," * (30 * 2**20) + b'[]]"}}'
    path.write_bytes(len(body).to_bytes(8, "little") + body)
    start = time.monotonic()
    with pytest.raises(FileError, match="its header has"):
        vila_lab.open(path)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("inner", [True, False])
def test_a_header_nested_beyond_all_measure_is_refused(inner, tmp_path):
    deep = "[" * 10**5
    body = json.dumps({"__metadata__": {"vila_lab": deep}}).encode() if inner else deep.encode()
    (tmp_path / "a.vila").write_bytes(len(body).to_bytes(8, "little") + body)
    with pytest.raises(FileError):
        vila_lab.open(tmp_path / "a.vila")


def test_an_attribution_is_kept_as_well(answer, tmp_path):
    found = answer.attribute("leave_one_out")
    path = found.save(tmp_path / "a.vila")
    data = path.read_bytes()
    assert vila_lab.Attribution.open(path).note == found.note
    for place in random.Random(1).sample(range(len(data)), 40):
        path.write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(FileError):
            vila_lab.Attribution.open(path)


# -- what cannot be opened -----------------------------------------------------------------------------------------------


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(SavedFileNotFound, match="there is no saved answer"):
        vila_lab.open(tmp_path / "no.vila")
    for place in (tmp_path, "/dev/zero", "/dev/null"):
        with pytest.raises(FileAccessError, match="is a d"):
            vila_lab.open(place)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="pipe"):
        vila_lab.open(tmp_path / "pipe")
    with pytest.raises(FileAccessError, match="cannot be read"):
        vila_lab.open("a\0b")
    assert issubclass(SavedFileNotFound, FileNotFoundError)


# -- writing -------------------------------------------------------------------------------------------------------------


WRITERS: dict[str, Callable[[vila_lab.Answer, Path], Path]] = {
    "save": lambda answer, path: answer.save(path),
    "to_html": lambda answer, path: answer.to_html(path),
    "attribution": lambda answer, path: answer.attribute("attention").save(path),
    "compare": lambda answer, path: vila_lab.compare(answer, answer).to_html(path),
}


MADE_BY = (
    "engine.record.to_bytes",
    "attribution.result.to_bytes",
    "view.display.whole_page",
    "view.compare.whole_page",
)


@pytest.fixture(params=WRITERS)
def writes(request, answer) -> Callable[[Path], Path]:
    return lambda path: WRITERS[request.param](answer, path)


@pytest.fixture
def umask() -> Any:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(writes, tmp_path, umask):
    path = tmp_path / "a"
    assert writes(path) == path
    assert mode(path) == 0o644
    for own in (0o600, 0o664):
        path.chmod(own)
        writes(path)
        assert mode(path) == own
    assert names_in(tmp_path) == ["a"]


def test_a_link_is_followed(writes, tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "there", tmp_path / "link"
    link.symlink_to(target)
    for _ in range(2):  # to nothing, and then to a file
        writes(link)
        assert link.is_symlink()
        assert target.stat().st_size > 1000
    assert names_in(tmp_path) == ["folder", "link"]
    assert names_in(tmp_path / "folder") == ["there"]


def test_what_is_no_regular_file_is_left_alone(writes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        for name in ("pipe", "folder", "socket", "/dev/null"):
            before = Path(name).stat()
            with pytest.raises(FileAccessError) as caught:
                writes(Path(name))
            assert one_sentence(caught.value)
            assert isinstance(caught.value, OSError)
            assert (Path(name).stat().st_mode, Path(name).stat().st_ino) == (before.st_mode, before.st_ino)
    assert names_in(tmp_path) == ["folder", "pipe", "socket"]


@pytest.mark.parametrize("name", ["no/such/folder/a", "a\0b", "x" * 300, "file/a", "~nobody-of-this-name/a"])
def test_a_place_that_cannot_be_written_is_said(writes, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError) as caught:
        writes(Path(name))
    assert one_sentence(caught.value)
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("name", [None, 3, ["a"]])
def test_what_is_no_name_of_a_file_is_said(writes, name):
    with pytest.raises(OptionError) as caught:
        writes(name)
    assert one_sentence(caught.value)
    assert repr(name) in str(caught.value)


def test_a_name_may_be_bytes(answer, tmp_path):
    assert answer.to_html(os.fsencode(tmp_path / "a.html")) == tmp_path / "a.html"


@pytest.mark.parametrize("place", ["nowhere/a", "kept/a"], ids=["no folder", "read-only"])
def test_a_place_that_cannot_be_written_is_said_before_the_work(writes, place, tmp_path, monkeypatch):
    """An administrator may write everywhere, so what the system says of a folder is set here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kept").mkdir()
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, how: Path(path).name != "kept" and allowed(path, how))
    for name in MADE_BY:
        monkeypatch.setattr(f"vila_lab.{name}", lambda *_: pytest.fail("it was made for nothing"))
    with pytest.raises(FileAccessError, match=r"there is no folder .*nowhere'; make it|its folder is write-protected"):
        writes(Path(place))
    assert names_in(tmp_path / "kept") == []


def test_a_gallery_checks_its_folder_before_it_draws(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "Asked", lambda: None)
    (tmp_path / "file").touch()
    (tmp_path / "out" / "heads.png").mkdir(parents=True)
    for folder, why in ((tmp_path / "file", "cannot be written"), (tmp_path / "out", "heads.png' is a directory")):
        with pytest.raises(FileAccessError, match=why):
            gallery.draw_all(folder, ["layers", "heads"])
    assert names_in(tmp_path / "out") == ["heads.png"]


def test_a_full_disk_leaves_the_old_files(tmp_path):
    """The largest size of a file stands for the disk: the system refuses the rest of it, as it does where none is left."""
    code = f"""
import resource, sys, vila_lab
from pathlib import Path
from vila_lab.errors import FileAccessError
folder = Path({str(tmp_path)!r})
answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"], max_new_tokens=2)
chat = vila_lab.load().chat()
chat.ask([vila_lab.demo_images() / "g.png", "What is in image 1?"], max_new_tokens=2)
writers = [answer.save, answer.to_html, chat.save, chat.to_html, answer.attribute("attention").save, vila_lab.compare(answer, answer).to_html]
def figure(path):
    answer.plot("layers").figure.savefig(path, format="pdf")
    return path
writers.append(figure)
before = [write(folder / str(k)).read_bytes() for k, write in enumerate(writers)]
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
for k, write in enumerate(writers):
    try:
        write(folder / str(k))
    except FileAccessError as error:
        assert "cannot be written" in str(error), error
    else:
        sys.exit(f"{{k}} was written")
assert [(folder / str(k)).read_bytes() for k in range(len(writers))] == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert names_in(tmp_path) == list("0123456")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "Ctrl-C"])
@pytest.mark.parametrize("step", ["fsync", "fchmod"])
def test_a_failure_on_the_way_leaves_the_old_file_and_nothing_else(error, step, tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("old")

    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(writing.os, step, fail)
    with pytest.raises(FileAccessError if isinstance(error, OSError) else KeyboardInterrupt):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["a"]


def test_a_reader_never_meets_half_a_file(tmp_path):
    path = tmp_path / "a"
    write_file(path, b"0" * 10**6)
    seen: set[tuple[int, bytes]] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            data = path.read_bytes()
            seen.add((len(data), data[:1] + data[-1:]))

    thread = threading.Thread(target=read)
    thread.start()
    for k in range(40):
        write_file(path, str(k % 2).encode() * 10**6)
    stop.set()
    thread.join()
    assert seen <= {(10**6, b"00"), (10**6, b"11")}


# -- pictures ------------------------------------------------------------------------------------------------------------


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "LA"), ("WEBP", "RGBA")]
)
def test_a_picture_of_a_file_is_saved_as_it_came(kind, mode, tmp_path):
    file = tmp_path / "picture"
    image = noise((90, 60)).convert("L" if mode == "LA" else "RGB").convert(mode)
    image.save(file, kind)
    answer = vila_lab.load().ask([file, "What is it?"], max_new_tokens=1)
    assert answer.nbytes > 0
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    assert opened.images[0].tobytes() == answer.images[0].tobytes()
    for each in (tmp_path / "a.vila", opened.save(tmp_path / "b.vila")):
        assert file.read_bytes() in each.read_bytes()


@pytest.mark.parametrize("options", [{"apply_exif": True}, {}])
def test_a_picture_that_was_changed_after_reading_is_saved_as_it_is(options, tmp_path):
    file, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[274] = 6
    noise((90, 60)).save(file, exif=exif)
    picture = Picture.of(file, **options)
    if not options:
        picture.image.putpixel((3, 4), (1, 2, 3))
    answer = vila_lab.load().ask([picture, "What is it?"], max_new_tokens=1)
    opened = vila_lab.open(answer.save(tmp_path / "a.vila"))
    assert opened.images[0].tobytes() == picture.image.tobytes()
    assert file.read_bytes() not in (tmp_path / "a.vila").read_bytes()


def test_noise_is_saved_as_pixels_and_drawings_as_png(tmp_path):
    drawn = Image.new("RGB", (900, 600), "teal")
    for image, most in ((noise((900, 600)), 900 * 600 * 3 + 200_000), (drawn, 200_000)):
        answer = vila_lab.load().ask([image, "What is it?"], max_new_tokens=1)
        file = answer.save(tmp_path / "a.vila")
        assert file.stat().st_size < most
        assert vila_lab.open(file).images[0].tobytes() == image.tobytes()


def test_an_answer_saved_without_originals_is_small_and_says_so(tmp_path):
    large, small = noise((1800, 1200)), noise((96, 96))
    answer = vila_lab.load().ask([large, small, "What is in image 2?"], max_new_tokens=1)
    opened = vila_lab.open(answer.save(tmp_path / "a.vila", originals=False))
    assert (tmp_path / "a.vila").stat().st_size < large.width * large.height
    assert [image.size for image in opened.images] == [large.size, small.size]
    assert opened.images[1].tobytes() == small.tobytes()
    (note,) = set(opened.notes) - set(answer.notes)
    assert note.startswith("picture 1: saved without its original of 1800 × 1200 pixels")
    assert np.array_equal(opened.heatmap(0), answer.heatmap(0))
    assert opened.display().words == answer.display().words


def test_files_of_the_format_before_open(saved, answer, tmp_path):
    def as_png(header: dict[str, Any], tensors: dict[str, Any]) -> None:
        for k, image in enumerate(answer.images):
            tensors[f"image.{k}"] = torch.from_numpy(np.frombuffer(wire.png_of(image), np.uint8).copy())
        header.pop("written_sizes")

    (tmp_path / "a.vila").write_bytes(changed(saved, as_png, version=2))
    (tmp_path / "now.vila").write_bytes(saved)
    assert fingerprint(vila_lab.open(tmp_path / "a.vila")) == fingerprint(vila_lab.open(tmp_path / "now.vila"))
