"""The command line: one question per call, in vila-infer's words. Knows the session, no numerics."""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .arguments import add_answer, add_family, add_place, add_reading, family_of, form_of, reading_of
from .course import hand_out
from .errors import MissingExtra, OptionError, VilaLabError
from .inputs.naming import Text
from .options import check_range
from .sweeps.commands import add_report, add_sweep
from .tiny import DEMO_MEDIA, DEMO_TEXT, demo_images
from .writing import check_place

if TYPE_CHECKING:
    from .answer import Answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. An error the user can mend is one line on stderr and status 2."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (VilaLabError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return status


def _fail(message: str, status: int = 2) -> int:
    sys.stderr.write(f"vila-lab: {' '.join(message.split())}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vila-lab", description="See how a vision-language model uses several pictures at once."
    )
    parser.add_argument("--version", action="version", version=f"vila-lab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    infer = commands.add_parser(
        "infer",
        help="ask a model about pictures",
        description="Ask a model about pictures: all pictures first, then the text.",
    )
    infer.add_argument("-m", "--model-path", help="hub id or folder; without it the small embedded model answers")
    add_family(infer)
    infer.add_argument("--text", help="the question")
    infer.add_argument(
        "--media",
        nargs="+",
        default=[],
        metavar="FILE",
        help="pictures and videos, in order: files or URLs; a folder is a video of its pictures",
    )
    infer.add_argument(
        "-nf",
        "--num-video-frames",
        type=int,
        default=8,
        metavar="N",
        help="read N frames of each video, evenly spread (default: 8)",
    )
    add_reading(infer)
    infer.set_defaults(run=_infer)

    demo = commands.add_parser("demo", help="the four-picture example on the embedded model, as a page")
    demo.set_defaults(run=_demo)

    serve = commands.add_parser(
        "serve",
        help="answer over HTTP, in the words of OpenAI's chat completions",
        description="Keep a model resident and answer over HTTP, in the words of OpenAI's chat completions. The token stands in "
        "VILA_LAB_TOKEN; without it one is made and printed once.",
    )
    _add_serve_options(serve)

    add_sweep(commands)
    add_report(commands)
    _add_small_commands(commands)
    for command, page in ((infer, None), (demo, "vila-lab-demo.html")):
        command.add_argument("--html", metavar="PAGE", default=page, help="write the answer as one self-contained page")
        command.add_argument("--json", action="store_true", help="print answer, tokens and ledger as JSON")
    add_answer(infer)
    for command in (infer, serve):
        add_place(command)
    return parser


def _add_small_commands(commands: Any) -> None:
    notebooks = commands.add_parser("notebooks", help="copy the course, notebooks and demo pictures, into a folder")
    notebooks.add_argument(
        "folder", nargs="?", default="vila-lab-course", metavar="FOLDER", help="default: %(default)s"
    )
    notebooks.add_argument("--force", action="store_true", help="replace files there that were changed")
    notebooks.set_defaults(run=_notebooks)
    doctor = commands.add_parser("doctor", help="say what works on this machine, and what to do about the rest")
    doctor.set_defaults(run=_doctor)
    completion = commands.add_parser(
        "completion",
        help="write what a shell needs to complete these commands",
        description='For bash: eval "$(vila-lab completion bash)", in this shell or for good in ~/.bashrc.',
    )
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="whose language to write")
    completion.set_defaults(run=_completion)


def _add_serve_options(serve: argparse.ArgumentParser) -> None:
    add = serve.add_argument
    add("-m", "--model-path", help="hub id or folder; without it the small embedded model answers")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    add("--port", type=int, default=8000)
    add("--allowed-hosts", default="", metavar="HOSTS", help="further names it is asked under: lab.example,b.example")
    add("--tokens", type=Path, metavar="FILE", help="named tokens and quotas, TOML: [ana], token, questions_per_hour")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate, and those that vouch for it, in PEM form")
    add("--tls-key", type=Path, metavar="FILE", help="the certificate's private key, in PEM form without a password")
    add("--time-limit", type=float, default=300.0, metavar="SECONDS", help="for one question (default: 300)")
    add(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="answer up to N questions side by side, for throughput (default: 1)",
    )
    add("--classroom", action="store_true", help="class mode: a join code instead of a token, a quota each")
    add("--allow-remote-images", action="store_true", help="fetch pictures from public http(s) addresses")
    add("--allowed-media-domains", default="", metavar="HOSTS", help="from these hosts alone: a.example,b.example")
    add("--check", action="store_true", help="say what would be open to whom, and do nothing else")
    serve.set_defaults(run=_serve)


def _infer(options: argparse.Namespace) -> int:
    if not options.text and not options.media:
        raise OptionError("there is nothing to ask: give --text, --media, or both")
    from .prompt import Prompt

    # A misspelt file, and a page that cannot be written, are told before a model is loaded.
    _check_page(options)
    prompt = Prompt.of(Text(options.text or ""), images=_media(options) or None, **reading_of(options))
    form = form_of(options)
    _say(f"loading {options.model_path or 'the embedded model'} ...")
    answer = _session(options).ask(
        prompt, max_new_tokens=options.max_new_tokens, response_format=form, **family_of(options)
    )
    return _show(answer, options)


def _check_page(options: argparse.Namespace) -> None:
    if options.html:
        check_place(options.html)


def _media(options: argparse.Namespace) -> list[Any]:
    """Pictures by their names, and videos with the frames that are asked of each."""
    from .video import MOST_ASKED, Video, is_video_name

    check_range("--num-video-frames", options.num_video_frames, least=1, most=MOST_ASKED)
    return [
        Video(name, options.num_video_frames) if is_video_name(name) or Path(name).is_dir() else name
        for name in options.media
    ]


def _demo(options: argparse.Namespace) -> int:
    from .resident import load

    _check_page(options)
    started = time.perf_counter()
    answer = load().ask(DEMO_TEXT, images=[demo_images() / name for name in DEMO_MEDIA])
    _say(f"{DEMO_TEXT} ...")
    status = _show(answer, options)
    _say(f"the embedded model answered in {time.perf_counter() - started:.1f} s; open the page in a browser")
    return status


def _notebooks(options: argparse.Namespace) -> int:
    found = hand_out(options.folder, force=options.force)
    there = len(found.written) + len(found.unchanged)
    _say(f"{there} files are in {Path(options.folder).expanduser()}, {len(found.written)} of them new")
    if found.kept:
        names = ", ".join(path.name for path in found.kept)
        _say(f"kept as they are, because they were changed: {names}; --force replaces them")
    _say(f"to open them: jupyter lab {options.folder}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from . import doctor

    is_fault = False
    for check in doctor.CHECKS:
        findings = doctor.examined(check)
        is_fault |= any(each.is_fault for each in findings)
        sys.stdout.write(doctor.report(findings) + "\n")
        sys.stdout.flush()
    return int(is_fault)


def _completion(options: argparse.Namespace) -> int:
    from .completion import script

    sys.stdout.write(script(_parser(), options.shell) + "\n")
    return 0


def _serve(options: argparse.Namespace) -> int:
    try:
        from .serve.settings import Settings, tell
    except ImportError as error:
        raise _without_serve(error) from error
    # What is wrong with a flag is told before torch is imported and a model is loaded.
    settings = Settings(
        host=options.host,
        port=options.port,
        names=_listed(options.allowed_hosts),
        tokens=options.tokens,
        remote=options.allow_remote_images,
        domains=_listed(options.allowed_media_domains),
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        time_limit=options.time_limit,
        batch=options.batch,
        classroom=options.classroom,
    )
    try:
        with _uncollected():
            from .serve.running import run
    except ImportError as error:
        raise _without_serve(error) from error
    if options.check:
        return tell(settings, _say)
    _say(f"loading {options.model_path or 'the embedded model'} ...")

    def load() -> Any:
        with _uncollected():
            return _session(options)

    return run(load, settings, _say)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage: what torch and transformers make while they are imported stays, and a quarter of it was the search."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _without_serve(error: ImportError) -> MissingExtra:
    return MissingExtra(f'the service needs {error.name}: pip install "vila-lab[serve]"')


def _listed(words: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in words.split(",") if each.strip())


def _session(options: argparse.Namespace) -> Any:
    from .resident import load

    return load(options.model_path, device=options.device, dtype=options.dtype)


def _show(answer: Answer, options: argparse.Namespace) -> int:
    if options.json:
        sys.stdout.write(json.dumps(as_json(answer), ensure_ascii=False, indent=2) + "\n")
    else:
        sys.stdout.write(answer.text + "\n")
        for note in answer.notes:
            _say(f"note: {note}")
    if options.html:
        page = answer.to_html(options.html)
        _say(f"page: {page.resolve()}")
    return 0


def as_json(answer: Answer) -> dict[str, Any]:
    """Answer, tokens and ledger as plain values."""
    ledger = answer.ledger()
    return {
        "text": answer.text,
        "model": answer.model,
        "method": answer.method,
        "notes": list(answer.notes),
        "frames": [
            {"picture": number, **asdict(frame)} for number, frame in enumerate(answer.record.frames, 1) if frame
        ],
        "tokens": [
            {
                "text": token.text,
                "id": token.id,
                "logprob": round(token.logprob, 6),
                "position": token.position,
                "stop": token.stop,
            }
            for token in answer.tokens
        ],
        "ledger": {
            "columns": list(ledger.columns),
            "rows": [[round(float(v), 6) for v in row] for row in ledger.to_numpy()],
        },
    }


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")


if __name__ == "__main__":
    sys.exit(main())
