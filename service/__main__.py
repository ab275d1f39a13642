"""The command line: `rollcall [serve] | check | token | repair`, and the same by `python -m service`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from service import __version__
from service.config.loading import ConfigurationError, load
from service.config.settings import Settings
from service.config.validation import doubts
from service.demo_tokens import NoSigningSecret, sign
from service.serving import EXIT_CONFIGURATION, serve
from service.start_banner import print_banner

COMMANDS = ("serve", "check", "token", "repair")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or (words[0] not in COMMANDS and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "serve")
    options = _parser().parse_args(words)
    if options.command == "serve":
        return serve(options.config, print_banner if options.welcome else _quiet)
    try:
        settings = load(options.config)
        if options.command == "token":
            print(sign(settings, options.tenant, options.user, options.ttl))
        elif options.command == "repair":
            return _repaired(settings, options.config)
        else:
            for doubt in doubts(settings):
                print(f"but: {doubt}", file=sys.stderr)
            print(f"{options.config} is good: {len(settings.tenants)} tenant(s), redis {_shown(settings)}")
            if options.redis:
                return _check_redis(settings, options.config)
    except (ConfigurationError, NoSigningSecret, ValueError) as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rollcall", description="Session status in front of an API.")
    parser.add_argument("--version", action="version", version=f"rollcall {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="serve | check | token | repair")
    serving = commands.add_parser("serve", help="run the service (what is done when no command is given)")
    serving.add_argument("--welcome", action="store_true", help="say where to look and what to try, as make run does")
    checking = commands.add_parser("check", help="only validate the configuration; exit 0 or 2")
    checking.add_argument("--redis", action="store_true", help="ask the configured server what the service asks it")
    token = commands.add_parser("token", help="print a JWT signed with the tenant's own secret")
    token.add_argument("--tenant", required=True)
    token.add_argument("--user", required=True)
    token.add_argument("--ttl", type=int, default=3600, metavar="SECONDS", help="how long it is valid (default 3600)")
    repairing = commands.add_parser("repair", help="mend what disagrees in Redis, and say what was done")
    for command in (serving, checking, token, repairing):
        command.add_argument("--config", type=Path, default=Path("config.yaml"), metavar="FILE")
    return parser


def _check_redis(settings: Settings, path: Path) -> int:
    """Print what the start check finds at the configured Redis; returns the exit code."""
    from service.redis_check import check_redis  # it opens connections, for those who want that

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # what follows says it
    blockers, warnings = check_redis(settings, path)
    for sentence in warnings:
        print(f"but: {sentence}", file=sys.stderr)
    for sentence in blockers:
        print(sentence, file=sys.stderr)
    if blockers:
        return EXIT_CONFIGURATION
    print("redis can be used as it is")
    return 0


def _repaired(settings: Settings, path: Path) -> int:
    """Mend what disagrees in Redis, and print what was done; returns the exit code."""
    from service.core.errors import StoreUnavailable
    from service.repairing import repair
    from service.store.embedded.server import EmbeddedError

    try:
        lines = repair(settings, path)
    except (StoreUnavailable, EmbeddedError) as error:
        print(error.reason if isinstance(error, StoreUnavailable) else error, file=sys.stderr)
        return EXIT_FAILED
    print("\n".join(lines))
    return 0


EXIT_FAILED = 1


def _quiet(_: Settings) -> None:
    """Nothing to say: the log says it."""


def _shown(settings: Settings) -> str:
    """The kind of Redis, without its password."""
    return settings.redis.url.partition("://")[0]


if __name__ == "__main__":
    sys.exit(main())
