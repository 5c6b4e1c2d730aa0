"""The command line: verbs, one module each; an error becomes one message and its exit code."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click
from click.shell_completion import CompletionItem

from privml import __version__
from privml.base import extras
from privml.base.errors import HostError, PrivmlError, UsageError
from privml.base.home import advice
from privml.base.steps import complain, set_quiet
from privml.cli.completion import completion_option
from privml.cli.logs import log_to_terminal, show_traceback
from privml.cli.output import show_text
from privml.cli.usage import PROGRAM, Verb, message_and_hint

# Group -> verb -> one line of help. Modules are imported only when their verb runs, so that --help is quick.
GROUPS = {
    "make": {
        "init": "Start a recipe of your own.",
        "lint": "Check recipes for mistakes.",
        "platform": "Learn a machine of your own, so that images are predicted for it.",
        "lock": "Pin every input of a recipe by its SHA-256.",
        "image": "Build an image from its recipe and lock.",
        "run": "Boot an image on this machine and ask its model.",
        "deploy": "Write the file that starts an image on another host.",
        "model": "Make the volume of a model by itself.",
    },
    "know": {
        "measure": "Predict the registers of an image, or measure any file.",
        "explain": "Replay an event log and find the event that differs.",
        "inspect": "Show what a built image contains, or judge a bare quote.",
        "diff": "Show what changed between two images, locks, predictions or logs.",
    },
    "check": {
        "repro": "Build twice in different surroundings and compare bit by bit.",
        "doctor": "Report what this machine can and cannot do.",
    },
    "rely": {
        "verify": "Check the attestation of a running image.",
        "status": "Show the boot stages of a guest, without a verdict.",
        "lookup": "Find the published versions that have a register or a digest.",
        "export": "Write a published version's measurements for another verifier.",
        "proxy": "Serve a local OpenAI endpoint that talks only to a verified image.",
        "token": "Let a caller use a guest that answers only callers with a token.",
        "receipt": "Check the receipt of an answer: which guest gave it, to which request.",
        "collateral": "Fetch, show and serve the collateral of Intel and AMD.",
        "capture": "Inside a TD: record what was measured, to test predictions with.",
    },
    "publish": {
        "publish": "Sign an image's measurements, and say which versions count.",
        "endorse": "Rebuild a published version, and sign whether it is the same.",
        "log": "Keep an append-only log of what was published.",
    },
    "keys": {
        "keys": "Release keys of encrypted models to guests that prove themselves.",
    },
    "keep": {
        "store": "Manage the input store.",
    },
}
TITLES = {
    "make": "Make an image",
    "know": "Know what it measures to",
    "check": "Check a build, or this machine",
    "rely": "Rely on a running image",
    "publish": "Let others rely on your images",
    "keys": "Keep control of your models",
    "keep": "Keep inputs",
}
VERBS = {verb: line for verbs in GROUPS.values() for verb, line in verbs.items()}

_SHOWN_OF_A_NAME = 40
_ADVICE = {
    errno.ENOSPC: "free some space; `privml-build doctor` says how much is needed and where",
    errno.EDQUOT: "your quota is used up: free some space; `privml-build doctor` says how much is needed and where",
    errno.EROFS: "that file system is read-only: choose another place (`--output`, PRIVML_STORE)",
    errno.EACCES: "choose a place that you may write (`--output`, PRIVML_STORE)",
    errno.EPERM: "choose a place that you may write (`--output`, PRIVML_STORE)",
    errno.ENOTDIR: "a file is in the place of a folder: choose another place",
    errno.EEXIST: "a file is in the place of a folder: choose another place",
    errno.ENOENT: "choose a place that exists and that you may write",
}


class Verbs(Verb):
    """Loads a verb's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order in which a user needs them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, None for an unknown name, and for one that cannot be completed here."""
        if cmd_name not in VERBS:
            return None
        try:
            command: click.Command = getattr(importlib.import_module(f"privml.cli.{cmd_name}"), cmd_name)
        except ModuleNotFoundError as error:
            if ctx.resilient_parsing and extras.missing(error) is not None:
                return None
            raise
        return command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, then the options."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by group, without importing any."""
        for group, verbs in GROUPS.items():
            with formatter.section(TITLES[group]):
                formatter.write_dl(list(verbs.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs that begin with ``incomplete``, or the options; without importing any verb."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(verb, help=line) for verb, line in VERBS.items() if verb.startswith(incomplete)]


@completion_option
@click.group(
    cls=Verbs,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name=PROGRAM)
@click.option("-v", "--verbose", is_flag=True, help="Show the commands that are run, and their output.")
@click.option("-q", "--quiet", is_flag=True, help="Print no progress, only results and errors.")
def cli(*, verbose: bool, quiet: bool) -> None:
    """Build bit-reproducible Intel TDX guest images for private LLM inference, predict what the hardware will measure
    for them, and check the attestation of a running one.

    \b
    Examples:
      privml-build doctor                          what this machine can do
      privml-build image demo-cpu                  build out/demo-cpu
      privml-build run demo-cpu --prompt "Hello"   boot it here and ask its model
      privml-build measure demo-cpu                predict its registers
      privml-build verify https://HOST:8443 --expect out/demo-cpu
    """
    log_to_terminal(logging.DEBUG if verbose else logging.WARNING)
    set_quiet(quiet)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Machines and temporary directories are cleaned up on the way out, so a TERM must unwind like Ctrl-C.
    # Not the handler of SIGINT, which a shell ignores for what it runs in the background.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.excepthook = show_traceback
    words = list(argv) if argv is not None else None
    try:
        code = cli.main(args=words, prog_name=PROGRAM, standalone_mode=False)
    except PrivmlError as error:
        _fail(error.message, error.hint, error.exit_code)
    except ModuleNotFoundError as error:
        lacking = extras.missing(error)
        if lacking is None:
            raise
        _fail(lacking.message, lacking.hint, lacking.exit_code)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        show_text(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.UsageError as error:
        _fail_usage(error, words if words is not None else sys.argv[1:])
    except click.ClickException as error:
        _fail(error.format_message(), None, error.exit_code)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            _fail(_too_long(str(error.filename or "")), "give a shorter name or path", UsageError.exit_code)
        # A full disk, a folder that may not be written: the machine's, and no traceback helps its owner.
        where = f": {error.filename}" if error.filename else ""
        hint = advice(Path(error.filename)) if isinstance(error, PermissionError) and error.filename else None
        _fail(f"{error.strerror or error}{where}", hint or _ADVICE.get(error.errno or 0), HostError.exit_code)
    except (KeyboardInterrupt, click.exceptions.Abort):
        _fail("stopped", None, 130)
    sys.exit(code if isinstance(code, int) else 0)


def _too_long(path: str) -> str:
    """The message for a path that the file system refuses for its length; only its beginning is shown."""
    return f"`{path[:_SHOWN_OF_A_NAME]}...` ({len(os.fsencode(path))} bytes) is longer than a name or path may be"


def _fail(message: str, hint: str | None, code: int) -> NoReturn:
    complain(f"privml-build: {message}")
    if hint:
        complain(f"hint: {hint}")
    sys.exit(code)


def _fail_usage(error: click.UsageError, words: Sequence[str]) -> NoReturn:
    if error.ctx is not None:
        complain(error.ctx.get_usage())
    verb = next((word for word in words if word in VERBS), None)
    _fail(*message_and_hint(error, verb), error.exit_code)
