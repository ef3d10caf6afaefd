"""The command line of the simulator."""

import argparse
import contextlib
import sys
import time

from airflow_provider_evoimage.simulator.server import is_loopback, serve
from airflow_provider_evoimage.simulator.settings import Settings, read_settings
from airflow_provider_evoimage.simulator.state import SimulatorState

PROGRAM = "python -m airflow_provider_evoimage.simulator"
LAST_PORT = 65_535

EXPLANATION = """\
words in a prompt
  at submission, for the first POSTs with this prompt (option times=N; else as noted):
  [[http:503 times=2 retry_after=1]]  refused with this status (always); code=... changes the error code
  [[cut:before]]            the connection is closed, nothing is accepted (once)
  [[cut:after]]             accepted and paid, then the connection is closed without an answer (once)
  [[status-after:502]]      accepted and paid, then a proxy's HTML page with this status (once)
  [[junk-after]]            accepted and paid, then status 200 with an unreadable body (once)
  [[silence:90]]            accepted and paid, then no answer for 90 real seconds (once)
  [[delay:3]]               decided only after 3 real seconds; its key answers 409 meanwhile (once)

  in the generation:
  [[fail:CODE]]             fails with this code, such as content_policy_violation
  [[cancelled]]             ends as cancelled
  [[results:0]]             completes with fewer images than asked
  [[duration:30]]           takes 30 seconds, divided by the speed
  [[instant]]               has ended in the answer to its submission
  [[never]]                 does not end

  in its files (always, or times=N):
  [[expired]]               the links are dead from the start
  [[download:slow seconds=5]]  the file takes 5 real seconds
  [[download:short]]        the connection ends half-way
  [[download:html]]         status 200 with an HTML page
  [[download:octet]]        the type is application/octet-stream
  [[download:jpeg]]         JPEG bytes under the name and type of the format asked for
  [[download:cut]]          the connection is closed without an answer
  [[download:503]]          refused with this status

control, over HTTP with JSON bodies
  GET    /_simulator/counters          what was asked, paid, replayed, read and downloaded
  GET    /_simulator/generations       every generation, with its prompt and Idempotency-Key
  POST   /_simulator/generations/ID    {"end": "completed|failed|cancelled", "code": ...} or {"duration": S}
  POST   /_simulator/faults            {"route": "submit|task|batch|credits|download",
                                        "kind": "status|cut|junk|delay" or, for a download,
                                                "slow|short|html|octet|jpeg",
                                        "status", "code", "retry_after", "page", "seconds", "times",
                                        "probability", "after": true to accept a submission first}
  DELETE /_simulator/faults            take all of them away
  GET    /_simulator/settings
  POST   /_simulator/settings          any of {"speed", "duration", "link_lifetime", "credits",
                                        "token_credits", "api_keys": [...] or {key: account} or null,
                                        "revoked_keys": [...], "ignore_keys", "batch",
                                        "error_style": "new|old", "billing_object",
                                        "freeze": true stops the clock, "advance": seconds}
  POST   /_simulator/reset             forget everything

The images are drawn, not generated: each shows its prompt. Nothing leaves this machine.
"""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="A local EvoLink image API over HTTP, for demos, DAG development and tests.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="loopback address (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8585, help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--speed",
        type=float,
        default=20.0,
        metavar="FACTOR",
        help="how many times faster than the real service (default: %(default)s)",
    )
    parser.add_argument("--api-key", metavar="KEY", help="the only accepted key (default: any)")
    parser.add_argument(
        "--credits", type=float, default=1000.0, help="balance of the account (default: %(default)s)"
    )
    parser.add_argument(
        "--link-lifetime",
        type=float,
        default=86_400.0,
        metavar="SECONDS",
        help="real seconds for which result links work (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no line for each submitted generation")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the simulator until it is told to stop; return the exit code."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if not is_loopback(options.host):
        parser.error(f"--host {options.host}: the simulator listens on loopback addresses only")
    if not 0 <= options.port <= LAST_PORT:
        parser.error(f"--port {options.port}: must be from 0 to {LAST_PORT}")
    names = ("speed", "link_lifetime", "credits")
    try:
        checked = read_settings({name: getattr(options, name) for name in names})
    except ValueError as error:
        parser.error(str(error))
    state = SimulatorState(
        Settings(speed=checked["speed"], link_lifetime=checked["link_lifetime"]),
        credits=checked["credits"],
        api_key=options.api_key,
        report=None if options.quiet else _print_line,
    )
    try:
        serve(state, options.host, options.port, _announce)
    except OSError as error:
        print(f"{PROGRAM}: cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _announce(url: str) -> None:
    print(f"EvoLink simulator on {url}", flush=True)


def _print_line(line: str) -> None:
    # Whoever started the simulator may have stopped to read what it prints.
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
