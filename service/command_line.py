"""The commands of `rollcall`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import structlog

from service import __version__
from service.config.cross_checks import doubts
from service.config.initial_file import TENANT, webhook_secret, write_initial_file
from service.config.json_schema import schema_text
from service.config.loading import EXIT_CONFIGURATION, ConfigurationError, load
from service.config.settings import Settings
from service.demo_tokens import NoSigningSecret, sign
from service.process.start_banner import print_banner

SETTINGS = "; settings are in the file that --config names, or in variables such as SERVICE__SERVER__PORT=8081"
COMMANDS = ("serve", "check", "token", "repair", "forget", "backup", "restore", "config", "webhook")


def run(words: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    words = list(words)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    # Options alone are those of `serve`. Any other first word is a command, known or not.
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "serve")
    parser = _parser()
    options, unknown = parser.parse_known_args(words)
    if unknown:
        parser.error(
            f"unrecognized arguments: {' '.join(unknown)}{SETTINGS if options.command in ('serve', 'check') else ''}"
        )
    if options.command == "serve":
        # Imported here: the other commands need no server, which takes half a second.
        from service.process.serving import serve

        return serve(options.config, print_banner if options.welcome else _quiet)
    if options.command == "config":
        return _write_initial_file(options.config) if options.action == "init" else _print(schema_text())
    if options.command == "webhook":
        return _print(f"{webhook_secret()}\n")
    try:
        settings = load(options.config)
        if options.command == "token":
            print(sign(settings, options.tenant, options.user, options.ttl))
        elif options.command in ("repair", "forget", "backup", "restore"):
            return _in_redis(settings, options)
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
    commands = parser.add_subparsers(dest="command", metavar=" | ".join(COMMANDS))

    def add(name: str, effect: str, among: Any = commands) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = among.add_parser(
            name, help=effect, description=f"{effect[0].upper()}{effect[1:]}."
        )
        return made

    serving = add("serve", "run the service (the default without a command)")
    serving.add_argument("--welcome", action="store_true", help="print what to try first, as make run does")
    checking = add("check", "only validate the configuration; exit 0 or 2")
    checking.add_argument("--redis", action="store_true", help="also check the configured Redis, as the service does")
    token = add("token", "print a JWT signed with the tenant's own secret")
    token.add_argument("--tenant", required=True, metavar="NAME", help="a tenant of the configuration")
    token.add_argument("--user", required=True, metavar="ID", help="whom the token names")
    token.add_argument("--ttl", type=int, default=3600, metavar="SECONDS", help="how long it is valid (default 3600)")
    repairing = add("repair", "repair records and indexes in Redis that disagree")
    forgetting = add("forget", "list or remove what is kept of tenants that are not configured")
    forgetting.add_argument("tenant", nargs="?", metavar="TENANT", help="remove what is kept of this one")
    saving = add("backup", "write a backup of the embedded data to a file")
    restoring = add("restore", "replace the embedded data by a backup")
    for command in (saving, restoring):
        command.add_argument("file", type=Path, metavar="FILE", help="the backup")
    configuring = add("config", "write a first configuration, or print its JSON Schema")
    actions = configuring.add_subparsers(dest="action", metavar="init | schema", required=True)
    initial = add("init", "write a commented minimal file with fresh secrets, if there is none yet", actions)
    add("schema", "print the JSON Schema of the configuration", actions)
    webhooks = add("webhook", "print a new secret for a webhook")
    printing = webhooks.add_subparsers(dest="action", metavar="secret", required=True)
    add("secret", "print a new secret for a webhook", printing)
    for command in (serving, checking, token, repairing, forgetting, saving, restoring, initial):
        command.add_argument(
            "--config", type=Path, default=Path("config.yaml"), metavar="FILE", help="default: config.yaml"
        )
    return parser


def _print(text: str) -> int:
    """Print `text`; returns the exit code."""
    sys.stdout.write(text)
    return 0


def _write_initial_file(path: Path) -> int:
    """Write a first configuration, and print what to do next; returns the exit code."""
    try:
        write_initial_file(path)
    except FileExistsError:
        print(f"{path} exists and was not changed; name another file with --config FILE", file=sys.stderr)
        return EXIT_CONFIGURATION
    except OSError as error:
        print(f"{path} cannot be written: {error.strerror}", file=sys.stderr)
        return EXIT_CONFIGURATION
    print(f"{path} is written, with fresh secrets. Next:")
    print(f"  rollcall --config {quote(str(path))}")
    print(f"  rollcall token --config {quote(str(path))} --tenant {TENANT} --user alice")
    return 0


def _check_redis(settings: Settings, path: Path) -> int:
    """Print what the start check finds at the configured Redis; returns the exit code."""
    from service.redis_check import check_redis  # imported here: other commands need no connections

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    blockers, warnings = check_redis(settings, path)
    for sentence in warnings:
        print(f"but: {sentence}", file=sys.stderr)
    for sentence in blockers:
        print(sentence, file=sys.stderr)
    if blockers:
        return EXIT_CONFIGURATION
    print("redis can be used as it is")
    return 0


def _in_redis(settings: Settings, options: argparse.Namespace) -> int:
    """Run a command on the data in Redis; returns the exit code."""
    from service.core.errors import StoreUnavailable
    from service.repairing import backup, forget, repair, restore
    from service.store.embedded.server import EmbeddedError

    try:
        path = options.config
        if options.command == "repair":
            lines = repair(settings, path)
        elif options.command == "forget":
            lines = forget(settings, path, options.tenant)
        else:
            lines = (backup if options.command == "backup" else restore)(settings, path, options.file)
    except (StoreUnavailable, EmbeddedError) as error:
        print(error.reason if isinstance(error, StoreUnavailable) else error, file=sys.stderr)
        return EXIT_FAILED
    print("\n".join(lines))
    return 0


EXIT_FAILED = 1


def _quiet(_: Settings) -> None:
    """Print nothing; the log has it."""


def _shown(settings: Settings) -> str:
    """Return the kind of Redis, without its password."""
    return settings.redis.url.partition("://")[0]
