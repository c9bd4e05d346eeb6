"""The command line: ``caffesurgery COMMAND ...``.  Results on stdout, progress on stderr.

Exits with 0, with 1 when the job failed, and with 2 when the command line was wrong.
"""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit; every expected failure is one message, never a traceback."""
    import click

    from ..errors import SurgeryError
    from .commands import cli

    try:
        code = cli.main(arguments, prog_name="caffesurgery", standalone_mode=False) or 0
    except click.exceptions.Abort:
        code = _fail("interrupted; nothing was left half written", 1)
    except KeyboardInterrupt:
        code = _fail("interrupted; nothing was left half written", 1)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SurgeryError as error:
        code = _fail(str(error), error.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        code = 1
    except MemoryError:
        code = _fail("out of memory; nothing was left half written", 1)
    except OSError as error:
        code = _fail(f"{error.filename or 'file'}: {error.strerror or error}", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> int:
    print(f"caffesurgery: {message}", file=sys.stderr)
    return code
