"""The `combcn` command: its flags are the fields of a dataclass a command and of `InpaintConfig`.

Exit codes: 0 done; 2 a mistake of the caller, said in one sentence; 130 Ctrl-C; 1 anything else.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro
from tyro.conf import OmitSubcommandPrefixes

from combcn_core.cli.batch import Batch
from combcn_core.cli.common import say
from combcn_core.cli.demo import Demo
from combcn_core.cli.evaluate import Evaluate
from combcn_core.cli.inpaint import Inpaint
from combcn_core.cli.masks import Masks
from combcn_core.cli.predict import Predict
from combcn_core.cli.train import Train
from combcn_core.memory import share_one_heap
from combcn_core.training.state import TrainingDiverged
from combcn_core.version import __version__

COMMANDS = {
    "inpaint": Inpaint,
    "masks": Masks,
    "predict": Predict,
    "batch": Batch,
    "train": Train,
    "evaluate": Evaluate,
    "demo": Demo,
}


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
        kinds: Any = Union[  # noqa: UP007 (subcommands carry their names in annotations)
            tuple(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in COMMANDS.items())
        ]
        command: Any = tyro.cli(
            kinds,
            prog="combcn",
            description="Remove objects from videos: look through time first, paint second. "
            "`combcn --version` says which version this is.",
            args=arguments,
            config=(OmitSubcommandPrefixes,),
        )
        return int(command.run())
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
