"""Frames of a video file, decoded by PyAV within bounds. Knows containers and time stamps, no prompts and no pictures' rules.

How many frames there are is counted, never believed: a container's own number may lie. Short videos are decoded from end to
end; of long ones the time stamps are listed, and only what lies between a key frame and a wanted one is decoded. Wherever the
two do not agree the video is decoded from end to end after all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import MissingExtra, VideoError, VilaLabError
from .frames import MOST_EACH, Shot, Shots, Watch, chosen
from .sources import reason

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

__all__ = ["shots_of_clip"]

SHORT = 512  # frames; so many are decoded from end to end, which counts those that can be shown and not those that are stored
SILENCE = 1.0  # seconds by which sound may outlast the pictures without a word
SEEKABLE = ("av1", "h264", "hevc", "mjpeg", "mpeg4", "vp9")  # whose packets are frames; of VP8's some are never shown
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,yuv4mpegpipe"
"""What a file may be. Playlists and lists of files are none of these: they could name other files, and addresses."""


@dataclass
class _Found:
    """What a look at the packets tells."""

    stamps: list[int | None] = field(default_factory=list)
    keys: dict[int, int] = field(default_factory=dict)  # time stamps of key frames, and where to seek for each

    @property
    def is_sound(self) -> bool:
        """Whether every packet can be told by its time stamp."""
        return None not in self.stamps and len(set(self.stamps)) == len(self.stamps) and bool(self.keys)


class _Missed(Exception):
    """A frame is not where the packets said."""


class _Clip:
    """A video file that can be opened again and again.

    Parameters
    ----------
    file
        Can be sought in.
    watch
        Looks at every read from the file: no call into the decoder outlasts it by more than one frame.
    """

    def __init__(self, file: BinaryIO, watch: Watch) -> None:
        self.av = _pyav()
        self._file = file
        self.watch = watch
        self.name = watch.name

    def read(self, size: int) -> bytes:
        self.watch.look()
        return self._file.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    @contextmanager
    def opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        """The container and its stream of pictures; the cover of a song is none."""
        self._file.seek(0)
        options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "none"}
        with self.av.open(self, "r", container_options=options) as container:
            stream = self._stream(container)
            stream.codec_context.options = {"max_pixels": str(MOST_EACH)}  # before the decoder asks for memory
            stream.thread_type = "AUTO"
            yield container, stream

    def _stream(self, container: InputContainer) -> VideoStream:
        found = [
            stream
            for stream in container.streams.video
            if not stream.disposition & self.av.stream.Disposition.attached_pic
        ]
        if not found and container.streams.audio:
            raise VideoError(f"{self.name} holds sound and no pictures; give a video, or pictures")
        if not found:
            raise VideoError(f"{self.name} holds no pictures; give a video, or pictures")
        self.watch.fits(found[0].codec_context.width, found[0].codec_context.height)
        return found[0]

    def packets(self) -> _Found:
        """A look at all packets, without decoding any."""
        found = _Found()
        with self.opened() as (container, stream):
            for packet in self.watch.over(_until_damage(container.demux(stream), self.av)):
                if not packet.size or packet.is_discard:
                    continue
                found.stamps.append(packet.pts)
                if packet.is_keyframe and packet.pts is not None:
                    # A transport stream is sought in by the order of decoding.
                    found.keys[packet.pts] = packet.pts if packet.dts is None else min(packet.pts, packet.dts)
        return found

    def sought(self, found: _Found, numbers: Sequence[int]) -> Iterator[Shot]:
        """Frames by their numbers, each decoded from the key frame before it on.

        Raises
        ------
        _Missed
            If one is not there.
        """
        stamps = sorted(stamp for stamp in found.stamps if stamp is not None)
        with self.opened() as (container, stream):
            keys = sorted(found.keys)
            frames: Iterator[VideoFrame] = iter(())
            at = stamps[0] - 1
            for number in numbers:
                key = keys[max(bisect_right(keys, stamps[number]) - 1, 0)]
                if key > at:  # else what is wanted lies ahead of where the decoder is
                    container.seek(found.keys[key], stream=stream)
                    frames = container.decode(stream)
                frame = self._frame_at(frames, stamps[number])
                at = stamps[number]
                yield self._shot(frame, number, _seconds(frame, stamps[0], stream.time_base))

    def _frame_at(self, frames: Iterator[VideoFrame], stamp: int) -> VideoFrame:
        for frame in self.watch.over(frames):
            if frame.pts is None or frame.pts > stamp or (frame.pts == stamp and frame.is_corrupt):
                break
            if frame.pts == stamp:
                return frame
        raise _Missed

    def through(self, numbers: Sequence[int]) -> tuple[int, list[Shot], bool]:
        """Decode from end to end: how many frames there are, those of some numbers, and whether all could be decoded."""
        wanted, shots, whole, count = set(numbers), [], True, 0
        first: int | None = None
        with self.opened() as (container, stream):
            for packet in self.watch.over(_until_damage(container.demux(stream), self.av)):
                try:
                    decoded = packet.decode()
                except self.av.error.FFmpegError:
                    whole = False
                    continue
                for frame in decoded:
                    whole = whole and not frame.is_corrupt
                    first = frame.pts if first is None else first
                    if count in wanted:
                        shots.append(self._shot(frame, count, _seconds(frame, first, stream.time_base)))
                    count += 1
        return count, shots, whole

    def _shot(self, frame: Any, number: int, seconds: float | None) -> Shot:
        self.watch.take(frame.width, frame.height)
        # As OpenCV, the reference's reader, makes RGB of half-resolution colours: the same to the bit.
        image = frame.to_image(interpolation="BICUBIC")
        return Shot(image, number, seconds, int(frame.rotation) % 360)


def shots_of_clip(file: BinaryIO, name: str, wanted: int) -> Shots:
    """Some frames of a video file, by `vila_lab.inputs.frames.chosen`.

    Parameters
    ----------
    file
        Can be sought in.
    name
        For messages.
    wanted
        How many frames; fewer where there are not so many.

    Raises
    ------
    VideoError
        It is no video, is damaged, holds no pictures, or is beyond the bounds of `vila_lab.inputs.frames`: `MOST_SECONDS` of
        work, `MOST_FRAMES` frames, `MOST_EACH` pixels of one and `MOST_PIXELS` of all that are taken.
    MissingExtra
        Without PyAV; the message holds the pip line.
    """
    with _av_errors(name):
        clip = _Clip(file, Watch(name))
        found = clip.packets()
        with clip.opened() as (container, stream):
            is_seekable = stream.codec_context.codec.canonical_name in SEEKABLE and found.is_sound
            notes = (*_shape_notes(stream), *_length_notes(container, stream, found))
            stated = stream.frames
        stored = len(found.stamps)
        if is_seekable and stored > SHORT:
            try:
                return Shots(list(clip.sought(found, chosen(stored, wanted))), stored, notes)
            except (_Missed, clip.av.error.FFmpegError):
                clip.watch.forget()
        count, shots, whole = clip.through(chosen(stored, wanted) if stored else [])
        if count not in (0, stored):  # not all that is stored can be shown
            clip.watch.forget()
            count, shots, whole = clip.through(chosen(count, wanted))
    if not shots:
        raise VideoError(f"{name} is damaged: no frame of it can be decoded; save or download it again")
    if not whole or count < stated:
        notes += ("the video is damaged: what can be decoded was read",)
    return Shots(shots, count, notes)


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingExtra("videos need PyAV: pip install 'vila-lab[video]'") from error
    return av


def _shape_notes(stream: VideoStream) -> tuple[str, ...]:
    ratio = stream.sample_aspect_ratio
    return (f"its pixels are not square ({ratio}), shown as stored",) if ratio and ratio != 1 else ()


def _length_notes(container: InputContainer, stream: VideoStream, found: _Found) -> tuple[str, ...]:
    """Whether pictures end long before the file says: it is cut off, or its sound is longer."""
    if not found.is_sound or not container.duration or stream.time_base is None:
        return ()
    stamps = [stamp for stamp in found.stamps if stamp is not None]
    last, stated = float((max(stamps) - min(stamps)) * stream.time_base), container.duration / 1e6
    is_short = stated - last > SILENCE
    return (f"the file says that it lasts {stated:.2f} s, and its last frame is at {last:.2f} s",) if is_short else ()


def _seconds(frame: VideoFrame, first: int | None, unit: Fraction | None) -> float | None:
    if frame.pts is None or first is None or unit is None:
        return None
    return float((frame.pts - first) * unit)


def _until_damage(packets: Iterator[Any], av: Any) -> Iterator[Any]:
    """Packets up to where the file breaks off."""
    try:
        yield from packets
    except av.error.FFmpegError:
        return


@contextmanager
def _av_errors(name: str) -> Iterator[None]:
    """Turn what PyAV raises for a file it cannot read into one sentence."""
    try:
        yield
    except VilaLabError:
        raise
    except Exception as error:  # each decoder has its own
        if type(error) is MemoryError:  # FFmpeg's own says that a damaged file asks for more than there can be
            raise
        message = f"{name} is damaged, or no video that can be read ({reason(error)}); save it as MP4, MKV or WebM"
        raise VideoError(message) from error
