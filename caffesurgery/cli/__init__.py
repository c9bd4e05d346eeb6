"""The command line: ``caffesurgery COMMAND ...``.  Results on stdout, progress on stderr.

Exits with 0, with 1 when the job failed, and with 2 when the command line was wrong.
"""

from __future__ import annotations

import errno
import signal
import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit; every expected failure is one message, never a traceback."""
    try:
        _prepare()
        code = _run(arguments)
    except KeyboardInterrupt:
        code = _fail("interrupted; nothing was left half written")
    sys.exit(code)


def _prepare() -> None:
    """Let a terminated run clean up as after Ctrl-C, and names that no encoding holds be printed.

    A signal that is ignored (nohup) stays ignored; names come escaped, as in Python, since a
    prototxt may be in any encoding.  Layers are decomposed side by side, each with one BLAS thread,
    which has to be said before NumPy is loaded.
    """
    from ..workers.threads import one_thread

    one_thread()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str] | None) -> int:
    """The exit status of one command, after its message if it failed."""
    import click

    from ..errors import SurgeryError
    from .commands import cli

    try:
        code = cli.main(arguments, prog_name="caffesurgery", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"\nsee `{context.command_path} --help`" if context else ""
        return _fail(error.format_message() + hint, error.exit_code)
    except SurgeryError as error:
        return _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except MemoryError:
        return _fail("out of memory; nothing was left half written")
    except OSError as error:
        return _fail(f"{error.filename or _unnamed(error)}: {error.strerror or error}")


def _unnamed(error: OSError) -> str:
    """What could not be written when the error names no file: with a full disk, the output."""
    return "standard output" if error.errno in (errno.ENOSPC, errno.EIO) else "file"


def _fail(message: str, code: int = 1) -> int:
    print(f"caffesurgery: {message}", file=sys.stderr)
    return code
