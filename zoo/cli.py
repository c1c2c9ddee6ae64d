"""The command ``facezoo``. A command's module is imported only when the command runs."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence

from plugins.extras import missing_extra
from zoo.manual import ManualFormatter, write_manual

__all__ = ['build_parser', 'main']

# command: (module with `configure(parser)` and `run(args) -> int | None`, one line of help)
COMMANDS = {
    'list': ('zoo.commands.list', 'the models of the zoo, their sizes and what was measured of them'),
    'info': ('zoo.commands.info', 'the card of a model'),
    'profile': ('zoo.commands.profile', 'parameters, MACs and feature-map output in every convention'),
    'tables': ('zoo.commands.tables', "the papers' tables: printed figures, ours, deviations and reasons"),
    'data': ('zoo.commands.data', 'make, unpack and check training and verification files'),
    'train': ('recipes.train', 'train a recipe'),
    'eval': ('zoo.commands.eval', 'verification accuracy of a model or an exported file'),
    'eval-detector': ('zoo.commands.eval_detector', 'average precision of a detector on WIDER FACE, FDDB or a label file'),
    'ijb': ('zoo.commands.ijb', 'TAR at FAR of IJB-B or IJB-C templates'),
    'identify': ('zoo.commands.identify', '1:N identification on a folder of persons'),
    'impostors': ('zoo.commands.impostors', 'how often strangers like your people are accepted, and thresholds for them'),
    'recipe': ('recipes.browse', 'list, show and check the training recipes'),
    'arcface-torch': ('plugins.arcface_torch.__main__', "run InsightFace's own training and evaluation scripts, unmodified"),
    'doctor': ('zoo.commands.doctor', "what is installed, and which of InsightFace's scripts run here"),
    'export': ('zoo.commands.export', 'ONNX, NCNN or an InsightFace pack, checked before it is handed out'),
    'enrol': ('zoo.commands.enrol', 'make or change a gallery of known persons'),
    'recognise': ('zoo.commands.recognise', 'who is in these pictures'),
    'verify': ('zoo.commands.verify', 'whether two pictures show the same person'),
    'watch': ('zoo.commands.watch', 'recognise the faces of a camera, stream or video'),
    'experiments': ('recipes.experiments', 'run a study of many trainings and report it'),
    'bench': ('zoo.commands.bench', 'latency, throughput and memory on this machine'),
    'check': ('zoo.commands.check', 'whether a model will work on a device, judged by its graph before anything is built'),
    'deploy-report': ('zoo.commands.deploy_report', 'one page on every way to deploy a model: size, accuracy, latency, gates'),
    'latency': ('zoo.commands.latency', 'predict times on a device, or fit a predictor to measured times'),
    'demo': ('zoo.commands.demo', 'load, recognise, export and check on a sample picture; no network needed'),
    'completion': ('zoo.commands.completion', 'a script that completes commands, models and files in bash, zsh or fish'),
}

# what an argument is called in the help: who lists the names that it may be (module, function, its options), for completion
NAMES = {
    'MODEL': ('zoo.model_card', 'list_models', {}),
    'BACKBONE': ('zoo.model_card', 'list_models', {'task': 'recognition'}),
    'TARGET': ('zoo.export.target', 'list_targets', {}),
    'DEVICE': ('zoo.latency', 'list_latency', {}),
    'RECIPE': ('recipes.config', 'list_recipes', {}),
    'STUDY': ('recipes.experiments', 'list_studies', {}),
}

EPILOG = """`facezoo COMMAND --help` shows the arguments of a command, their defaults, and examples.

exit status:
  0 done, 1 an error (its message is on standard error), 2 wrong usage, 130 interrupted; where a command's status says more,
  its page tells"""

# errors whose message is written for the user; anything else is a defect and shows its traceback
USER_ERRORS = (ValueError, LookupError, ImportError, RuntimeError, OSError)


def build_parser(*implemented: str | None) -> argparse.ArgumentParser:
    """The parser of all commands; only those of ``implemented`` get their options, so that no other module is imported."""
    parser = argparse.ArgumentParser(
        'facezoo', description='Lightweight face recognition for small devices: trained models, measured and deployable.',
        formatter_class=ManualFormatter, epilog=EPILOG)
    parser.add_argument('--version', action='store_true', help='print the version and exit')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', title='commands')
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text)
        sub.add_argument('--debug', action='store_true', help='show the traceback of an error')
        if name in implemented:
            implementation = importlib.import_module(module)
            implementation.configure(sub)
            write_manual(sub, implementation.__doc__ or '')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0 done, 1 an error with its message on standard error, 2 wrong usage, 130 interrupted, 141 nobody reads.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    args = argparse.Namespace(command=next(iter(argv), None), debug='--debug' in argv)  # until they are parsed
    try:
        parser = build_parser(args.command)  # imports the command's module, which may fail, or be interrupted
        args = parser.parse_args(argv)
        if args.version:
            import zoo
            print(zoo.__version__)
            return 0
        if not args.command:
            parser.print_help()
            return 2
        logging.basicConfig(level=logging.INFO, format='%(message)s')
        status = importlib.import_module(COMMANDS[args.command][0]).run(args) or 0
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as error:
        print(f'facezoo: {str(error) or "interrupted"}', file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read the output has had enough, as `head` does
        _drop_output()
        return 141
    except USER_ERRORS as error:
        if args.debug:
            raise
        print(f'facezoo {args.command}: {_message(error)}', file=sys.stderr)
        _drop_output()
        return 1


def _open_streams() -> None:
    """Where one is closed, as by some services, Python has None, and the first file that is opened would get its number."""
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))  # noqa: SIM115 - until the end
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name that the terminal cannot show must not end the work
        sys.stdout.reconfigure(errors='backslashreplace')


def _drop_output() -> None:
    """Where the rest of the output cannot be written, Python would try again when it ends, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _message(error: Exception) -> str:
    """What to install for a module that is missing; the file of a system's error first, and no number; a ``KeyError``'s message
    without the quotes that its ``str`` adds."""
    if isinstance(error, ImportError) and (remedy := missing_extra(error)):
        return remedy
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f'{error.filename}: {error.strerror}'
    return error.args[0] if isinstance(error, KeyError) and error.args else str(error) or type(error).__name__


if __name__ == '__main__':
    sys.exit(main())
