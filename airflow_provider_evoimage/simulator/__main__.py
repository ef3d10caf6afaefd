"""The command line of the simulator."""

import argparse
import contextlib
import sys
import time
from pathlib import Path

from airflow_provider_evoimage.simulator.http.loopback import is_loopback
from airflow_provider_evoimage.simulator.http.server import serve
from airflow_provider_evoimage.simulator.manual import EXPLANATION
from airflow_provider_evoimage.simulator.service.settings import N_BEHAVIOURS, Settings, read_settings
from airflow_provider_evoimage.simulator.service.state import SimulatorState

COMMAND = "evoimage-simulator"
MODULE = "python -m airflow_provider_evoimage.simulator"
LAST_PORT = 65_535

# Options which are settings of the same name.
SETTINGS = (
    *("speed", "link_lifetime", "rps", "concurrency", "n_behaviour", "loopback_callbacks", "files_quota"),
    *("slow_start", "credits"),
)


def build_parser(program: str = MODULE) -> argparse.ArgumentParser:
    """Describe the command line."""
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog=program,
        description="A local EvoLink image API over HTTP, for demos, DAG development and tests.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="loopback address (default: %(default)s)")
    option("--port", type=int, default=8585, help="0 takes a free one (default: %(default)s)")
    option(
        "--speed",
        type=float,
        default=defaults.speed,
        metavar="FACTOR",
        help="how many times faster than the real service (default: %(default)s)",
    )
    option("--api-key", metavar="KEY", help="the only accepted key (default: any)")
    option("--credits", type=float, default=1000.0, help="balance of the account (default: %(default)s)")
    option(
        "--link-lifetime",
        type=float,
        default=defaults.link_lifetime,
        metavar="SECONDS",
        help="real seconds for which result links work (default: %(default)s)",
    )
    option("--seed", type=int, metavar="N", help="ids are the same in every run (default: random ids)")
    option(
        "--rps",
        type=float,
        default=defaults.rps,
        metavar="N",
        help="requests per second an account may send; more are refused with 429 (default: any number)",
    )
    option(
        "--concurrency",
        type=int,
        default=defaults.concurrency,
        metavar="N",
        help="generations an account may have running; more are refused with 429 (default: any number)",
    )
    option(
        "--n-behaviour",
        choices=N_BEHAVIOURS,
        default=defaults.n_behaviour,
        help="single: models whose pages say so make one image although n is larger (default: %(default)s)",
    )
    option(
        "--loopback-callbacks",
        action="store_true",
        help="send webhooks to receivers on this machine, over http or https (default: refuse such URLs)",
    )
    option(
        "--files-quota",
        type=int,
        default=defaults.files_quota,
        metavar="N",
        help="files an account may keep uploaded (default: %(default)s)",
    )
    option(
        "--slow-start",
        type=float,
        default=defaults.slow_start,
        metavar="SECONDS",
        help="answer 503 for so long after the start (default: %(default)s)",
    )
    option("--request-log", type=Path, metavar="FILE", help="append a line of JSON for every request")
    option("--quiet", action="store_true", help="no line for each submitted generation")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the simulator until it is stopped; return the exit code."""
    program = COMMAND if Path(sys.argv[0]).stem == COMMAND else MODULE
    parser = build_parser(program)
    options = parser.parse_args(arguments)
    if not is_loopback(options.host):
        parser.error(f"--host {options.host}: the simulator listens on loopback addresses only")
    if not 0 <= options.port <= LAST_PORT:
        parser.error(f"--port {options.port}: must be from 0 to {LAST_PORT}")
    try:
        settings = read_settings({name: getattr(options, name) for name in SETTINGS})
    except ValueError as error:
        parser.error(f"--{str(error).replace('_', '-', 1)}")
    balance = settings.pop("credits")
    state = SimulatorState(
        Settings(**settings),
        credits=balance,
        api_key=options.api_key,
        report=None if options.quiet else _print_line,
        seed=options.seed,
    )
    try:
        serve(state, options.host, options.port, _announce, options.request_log)
    except OSError as error:
        place = error.filename or f"{options.host}:{options.port}"
        print(f"{program}: cannot use {place}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _announce(url: str) -> None:
    print(f"EvoLink simulator on {url}", flush=True)


def _print_line(line: str) -> None:
    # The process that started the simulator may no longer read its output.
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
