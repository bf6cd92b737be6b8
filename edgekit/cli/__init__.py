"""The roof: every command parses, calls one function, prints. Heavy imports sit in the bodies."""

from __future__ import annotations

import os
import sys
import traceback

import click

from edgekit.cli.bench import bench
from edgekit.cli.bundle import bundle
from edgekit.cli.calibrate import calibrate
from edgekit.cli.chat import chat
from edgekit.cli.check import check
from edgekit.cli.convert import convert
from edgekit.cli.demo import demo
from edgekit.cli.devices import devices
from edgekit.cli.doctor import doctor
from edgekit.cli.evaluate import evaluate
from edgekit.cli.heal import heal
from edgekit.cli.inspect import inspect
from edgekit.cli.latency import latency
from edgekit.cli.output import styled
from edgekit.cli.plan import plan
from edgekit.cli.privacy import privacy
from edgekit.cli.private import lock_if_wanted, refuse_in_private_mode
from edgekit.cli.prune import prune
from edgekit.cli.pull import pull
from edgekit.cli.run import run
from edgekit.cli.search import search
from edgekit.cli.train import train
from edgekit.cli.tune import tune
from edgekit.errors import EdgekitError

INTERRUPTED = 130


class InOrder(click.Group):
    """A group whose help lists the commands in the order of the work, not of the alphabet."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the command names as they were added."""
        return list(self.commands)


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgekit", message="edgekit %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """From a trained language model to a chat that works with the network cable pulled out.

    A checkpoint is pulled, converted to an artifact (GGUF or ONNX), checked against the
    original, benched on this machine, and then answers without a network.
    """
    lock_if_wanted(context.invoked_subcommand)


for command in (
    demo, pull, inspect, train, search, prune, heal, calibrate, tune, convert, check, evaluate,
    bench, devices, plan, latency, bundle, run, chat, privacy, doctor,
):  # fmt: skip
    cli.add_command(command)
refuse_in_private_mode(run, "state", "the state file would hold the prompt unencrypted")


def main() -> None:
    """Run the command line and exit with the codes of `edgekit.errors`."""
    sys.exit(_run())


def _run() -> int:
    try:
        result = cli.main(standalone_mode=False)
    except EdgekitError as error:
        return _explain(error.message, error.hint, error.exit_code)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has gone (`edgekit run ... | head`): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        traceback.print_exc()
        return _explain("this is a bug in edgekit", "please report the lines above", 1)
    return result if isinstance(result, int) else 0


def _explain(message: str, hint: str, exit_code: int) -> int:
    click.echo(f"{styled('error:', fg='red', bold=True)} {message}", err=True)
    if hint:
        click.echo(f"\n{styled('hint:', fg='cyan')} {hint}", err=True)
    return exit_code
