"""The `combcn` command: its flags are the fields of a dataclass a command and of `InpaintConfig`.

Exit codes: 0 done; 2 a mistake of the caller, said in one sentence; 130 Ctrl-C; 1 anything else.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro
from tyro.conf import OmitSubcommandPrefixes

from combcn_core.cli.common import say
from combcn_core.memory import share_one_heap
from combcn_core.training import TrainingDiverged
from combcn_core.version import __version__

COMMANDS = ("inpaint", "masks", "predict", "batch", "train", "evaluate", "demo")


def load_command(name: str) -> Any:
    """The dataclass of one of `COMMANDS`. Only now is its module read, which may take seconds."""
    return getattr(importlib.import_module(f"combcn_core.cli.{name}"), name.capitalize())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: arguments without the program's name; those of the process if None.
    """
    logging.basicConfig(format="combcn: %(message)s")
    logging.getLogger("combcn").setLevel(logging.INFO)
    share_one_heap()
    try:
        arguments = _checked(list(sys.argv[1:] if argv is None else argv))
        if arguments == ["--version"]:
            print(f"combcn {__version__}")
            return 0
        return int(_parsed(arguments).run())
    except SystemExit as stop:  # tyro: 0 after --help, 2 after a wrong flag
        return int(stop.code or 0)
    except KeyboardInterrupt:
        say("stopped.")
        return 130
    except ValueError as error:
        text = str(error)
        say(text if text.endswith("?") else f"{text.rstrip('.')}.")
        return 2
    except MemoryError:
        say("out of memory; try again with --memory-limit GIB.")
        return 1
    except (OSError, TrainingDiverged) as error:
        say(f"{str(error).rstrip('.')}.")
        return 1


def _parsed(arguments: list[str]) -> Any:
    """The command, with its flags; of those that are not meant nothing is loaded."""
    if arguments and arguments[0] in COMMANDS:
        name, *flags = arguments
        return tyro.cli(load_command(name), prog=f"combcn {name}", args=flags)
    kinds: Any = Union[  # noqa: UP007 (subcommands carry their names in annotations)
        tuple(Annotated[load_command(name), tyro.conf.subcommand(name)] for name in COMMANDS)
    ]
    return tyro.cli(
        kinds,
        prog="combcn",
        description="Remove objects from videos: look through time first, paint second. "
        "`combcn --version` says which version this is.",
        args=arguments,
        config=(OmitSubcommandPrefixes,),
    )


def _checked(arguments: list[str]) -> list[str]:
    """The arguments, where the first one is a command, a flag, or nothing.

    Raises:
        ValueError: there is no such command.
    """
    if not arguments or arguments[0].startswith("-"):
        return arguments
    name = arguments[0]
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {near[0]}?" if near else f"there are {known}"
        raise ValueError(f"there is no command {name}; {advice}")
    if name == "evaluate" and "--self-test" in arguments:
        say("`combcn evaluate --self-test` is now `combcn predict`; this name goes next time.")
        return ["predict", *(word for word in arguments[1:] if word != "--self-test")]
    return arguments
