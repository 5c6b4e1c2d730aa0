"""The command line: verbs, one module each; errors become one message and the exit code of who must act."""

from __future__ import annotations

import errno
import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from privml import __version__
from privml.base.errors import HostError, PrivmlError
from privml.base.steps import complain, set_quiet
from privml.cli.output import log_to_terminal, show_traceback

# verb -> one line of help; modules are imported only when their verb runs, so that --help is quick.
VERBS = {
    "init": "Start a recipe of your own.",
    "lint": "Check recipes.",
    "lock": "Name every input of a recipe by its digest.",
    "image": "Build an image from its recipe and lock.",
    "repro": "Build twice in different surroundings, and compare bit by bit.",
    "inspect": "Tell what a built image is made of.",
    "diff": "Tell what changed between two images, predictions or logs.",
    "run": "Boot an image here and ask its model.",
    "measure": "Predict the registers of an image, or say what a file measures to; --boot compares with a real boot.",
    "explain": "Say why a register is what it is, and which event of a log differs.",
    "capture": "In a TD: write what it measured and was measured from into one archive, to test predictions with.",
    "verify": "Check a running image's attestation.",
    "proxy": "Serve an OpenAI endpoint locally that only talks to a verified image.",
    "store": "Look after the store of input bytes.",
    "doctor": "Say what this machine lacks.",
}


_ADVICE = {
    errno.ENOSPC: "make room; `privml-build doctor` says how much is needed and where",
    errno.EDQUOT: "your quota is used up: make room; `privml-build doctor` says how much is needed and where",
    errno.EROFS: "that file system is read-only: name another place (`--output`, PRIVML_STORE)",
    errno.EACCES: "name a place that you may write (`--output`, PRIVML_STORE)",
    errno.EPERM: "name a place that you may write (`--output`, PRIVML_STORE)",
    errno.ENOTDIR: "a file stands where a folder is needed: name another place",
    errno.EEXIST: "a file stands where a folder is needed: name another place",
    errno.ENOENT: "name a place that is there and may be written",
    errno.ENAMETOOLONG: "name a shorter path",
}


class Verbs(click.Group):
    """Loads a verb's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of a user's work."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, None for an unknown name."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"privml.cli.{cmd_name}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, without importing any."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="privml-build")
@click.option("-v", "--verbose", is_flag=True, help="Show the commands that are run, and what they say.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on standard error.")
def cli(*, verbose: bool, quiet: bool) -> None:
    """Measured, reproducible TDX guest images for private LLM inference.

    \b
    privml-build image demo-cpu                  build out/demo-cpu
    privml-build run demo-cpu --prompt "Hello"   boot it here and ask
    privml-build measure demo-cpu                predict its registers
    """
    log_to_terminal(logging.DEBUG if verbose else logging.WARNING)
    set_quiet(quiet)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Machines and temporary directories are cleaned up on the way out, so a TERM must unwind like Ctrl-C.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    sys.excepthook = show_traceback
    try:
        code = cli.main(args=list(argv) if argv is not None else None, standalone_mode=False)
    except PrivmlError as error:
        _fail(error.message, error.hint, error.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.UsageError as error:
        _fail_usage(error)
    except click.ClickException as error:
        _fail(error.format_message(), None, error.exit_code)
    except OSError as error:
        # A full disk, a folder that may not be written: the machine's, and no traceback helps its owner.
        where = f": {error.filename}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}", _ADVICE.get(error.errno or 0), HostError.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        _fail("stopped", None, 130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, hint: str | None, code: int) -> NoReturn:
    complain(f"privml-build: {message}")
    if hint:
        complain(f"hint: {hint}")
    sys.exit(code)


def _fail_usage(error: click.UsageError) -> NoReturn:
    """Say how the verb is used, then what is wrong with the words that were given."""
    context = error.ctx
    if context is not None:
        complain(context.get_usage())
        complain(f"Try '{context.command_path} --help' for help.\n")
    complain(f"Error: {error.format_message()}")
    sys.exit(error.exit_code)
