"""What the Test button says: one sentence that tells somebody what to mend, and never the key."""

import json
import re
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from airflow_provider_evoimage.exceptions import EvoImageError
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook
from airflow_provider_evoimage.simulator import SimulatorServer
from airflow_provider_evoimage.simulator.service.faults import Fault

API_KEY = "sk-evo-0123456789abcdef"


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Waiting between attempts takes no time."""
    waits = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    return waits


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def server():
    with SimulatorServer(api_key=API_KEY) as server:
        yield server


@pytest.fixture
def evolink(server):
    server.reset()
    return server


@pytest.fixture
def tested(monkeypatch):
    def tested(host="", password=API_KEY, **fields):
        connection = {"conn_type": "evoimage", "host": host, "password": password} | fields
        monkeypatch.setenv("AIRFLOW_CONN_EVO", json.dumps(connection))
        works, sentence = EvoImageHook("evo").test_connection()
        assert API_KEY not in sentence
        assert not password or password not in sentence
        return works, sentence

    return tested


@contextmanager
def http_server(status, body, content_type="text/html", **headers):
    """A server that is not EvoLink. The body may quote the request's Authorization as {authorization}."""

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self):
            content = body.replace("{authorization}", self.headers["authorization"]).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def fault(status, **options):
    return Fault("status", status, **options)


def test_good_key_is_told_the_balance(evolink, tested):
    assert tested(evolink.url) == (True, "Connected: 1,000.00 credits left on the account")
    assert evolink.state.counters.submissions == 0


def test_limit_of_the_key_is_told_beside_the_balance(evolink, tested):
    evolink.state.configure({"token_credits": 250})
    assert tested(evolink.url) == (
        True,
        "Connected: 1,000.00 credits left on the account, 250.00 of them for this API key",
    )


def test_low_balance_is_told(evolink, tested):
    evolink.state.configure({"credits": 67.99})
    assert tested(evolink.url) == (True, "Connected: 67.99 credits left on the account (less than 1 USD)")


def test_limit_of_the_key_above_the_balance_is_not_told(evolink, tested):
    evolink.state.configure({"credits": 1095.4, "token_credits": 99_416.4429})
    assert tested(evolink.url) == (True, "Connected: 1,095.40 credits left on the account")


def test_limit_of_the_key_that_is_used_up_says_to_raise_it(evolink, tested):
    evolink.state.configure({"token_credits": 0})
    assert tested(evolink.url) == (
        False,
        "The API key works, but its own limit is used up: 1,000.00 credits left on the account, none of them for "
        "this API key. Raise the key's limit before running a DAG.",
    )


def test_no_credit_fails_the_test_although_the_key_works(evolink, tested):
    evolink.state.configure({"credits": 0})
    works, sentence = tested(evolink.url)
    assert works is False
    assert sentence.startswith("The API key works, but there is no credit")
    assert "Top up" in sentence


def test_wrong_key_says_where_the_right_one_is(evolink, tested):
    works, sentence = tested(evolink.url, password="sk-evo-mistyped-key")
    assert works is False
    assert sentence == (
        f"{evolink.url} does not accept the API key: copy it again from https://evolink.ai/dashboard/keys."
    )


def test_revoked_key_is_not_accepted(evolink, tested):
    evolink.state.configure({"revoked_keys": [API_KEY]})
    assert "does not accept the API key" in tested(evolink.url)[1]


@pytest.mark.parametrize(
    ("status", "fragment"),
    [
        (402, "No credit: "),
        (403, "The API key is valid, but not allowed to do this"),
        (429, "HTTP 429"),
        (500, "HTTP 500"),
        (503, "HTTP 503"),
    ],
)
def test_refusal_is_told_in_words(evolink, tested, status, fragment):
    evolink.state.faults.post("credits", fault(status))
    works, sentence = tested(evolink.url)
    assert works is False
    assert fragment in sentence


@pytest.mark.parametrize("status", [429, 502, 503])
def test_passing_trouble_does_not_fail_the_test(evolink, tested, status):
    evolink.state.faults.post("credits", fault(status, times=2, retry_after="1"))
    assert tested(evolink.url)[0] is True
    assert evolink.state.counters.reads["credits"] == 3


def test_trouble_that_stays_is_given_up_within_a_minute(evolink, tested, clock):
    evolink.state.faults.post("credits", fault(503, retry_after="25"))
    assert tested(evolink.url)[0] is False
    assert sum(clock) <= 100
    assert evolink.state.counters.reads["credits"] <= 4


@pytest.mark.parametrize(
    ("status", "body", "fragment"),
    [
        (200, "<html><title>Welcome</title></html>", "a web page titled 'Welcome'"),
        (200, "", "an empty answer"),
        (200, '{"data": {}}', "no account balance"),
        (200, '{"success": false, "message": "maintenance"}', "maintenance"),
        (200, "[]", "no account balance"),
        (404, "<html><title>Not Found</title></html>", "HTTP 404"),
        (405, "no", "HTTP 405"),
        (400, "no", "HTTP 400"),
    ],
    ids=["page", "empty", "no-balance", "no-success", "list", "404", "405", "400"],
)
def test_host_that_is_not_evolink_says_to_check_the_base_url(tested, status, body, fragment):
    with http_server(status, body) as url:
        works, sentence = tested(url)
    assert works is False
    assert sentence.startswith(f"{url} answers, but not like EvoLink's API; check the base URL.")
    assert fragment in sentence


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed_and_says_to_use_the_apis_own_address(tested, status):
    with http_server(200, "elsewhere") as elsewhere, http_server(status, "", location=elsewhere) as url:
        works, sentence = tested(url)
    assert works is False
    assert f"HTTP {status}, a redirect" in sentence
    assert "never sent to another host" in sentence


def test_nothing_listening_says_that_there_is_no_connection(tested):
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    works, sentence = tested(url)
    assert works is False
    assert sentence.startswith(f"{url} cannot be reached. No connection")


def test_unknown_host_name_is_told(tested):
    works, sentence = tested("https://nope.invalid")
    assert works is False
    assert sentence.startswith("https://nope.invalid cannot be reached. The host name is not known")


def test_plain_http_on_a_tls_port_and_the_other_way_round_is_told(evolink, tested):
    works, sentence = tested(evolink.url.replace("http://", "https://"))
    assert works is False
    assert "No trusted TLS connection" in sentence


def test_connection_cut_is_told(evolink, tested):
    evolink.state.faults.post("credits", Fault("cut"))
    works, sentence = tested(evolink.url)
    assert works is False
    assert "The connection was cut" in sentence


def test_silence_is_told_after_the_time_out(evolink, tested):
    evolink.state.faults.post("credits", Fault("delay", seconds=600))
    works, sentence = tested(evolink.url, extra={"request_timeout": 0.05})
    assert works is False
    # Whichever of the two limits comes first.
    assert re.search("Silence for longer than the timeout|not done within 0.05 s", sentence)


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ({"password": ""}, "has no API key"),
        ({"host": "https://docs.evolink.ai"}, "web site, not its API"),
        ({"host": "http://api.evolink.ai"}, "unencrypted"),
        ({"extra": {"request_timeout": "soon"}}, "request_timeout must be a number above 0"),
        ({"extra": {"idempotency": "maybe"}}, "idempotency must be 'trusted' or 'ignored'"),
    ],
    ids=["no-key", "web-site", "plain-http", "time-out", "idempotency"],
)
def test_mistake_in_the_connection_is_told_without_asking_anybody(tested, fields, fragment):
    works, sentence = tested(**fields)
    assert works is False
    assert fragment in sentence


def test_missing_connection_is_told():
    works, sentence = EvoImageHook("nowhere").test_connection()
    assert works is False
    assert "Airflow finds no connection 'nowhere'" in sentence


@pytest.mark.parametrize("status", [200, 400, 401, 402, 403, 404, 429, 500, 502])
@pytest.mark.parametrize(
    "body",
    [
        '{"error": {"code": "bad", "message": "key {authorization} is bad"}}',
        '{"success": false, "message": "key {authorization} is bad"}',
        '{"error": "{authorization}"}',
        "<html><title>{authorization}</title></html>",
        "You sent {authorization}",
        '"{authorization}"',
    ],
    ids=["error", "no-success", "oauth", "title", "text", "json-string"],
)
def test_server_that_quotes_the_key_does_not_bring_it_into_any_message(tested, monkeypatch, status, body):
    with http_server(status, body) as url:
        works, _ = tested(url)
        assert works is False
        hook = EvoImageHook("evo")
        for ask in (hook.get_credits, lambda: hook.get_generation("task-unified-1-a")):
            with pytest.raises(EvoImageError) as caught:
                ask()
            assert API_KEY not in str(caught.value)
            assert API_KEY not in repr(vars(caught.value))
            assert API_KEY not in repr(caught.value.args)
        hook.close()


def test_connection_is_called_this_one(tested):
    works, sentence = tested(password="")
    assert not works
    assert sentence.startswith("This connection has no API key")
    works, sentence = tested(extra={"request_timeout": "soon"})
    assert sentence.startswith("In the extra of this connection, request_timeout must be a number")


def test_probable_typing_mistakes_are_told_beside_the_balance(evolink, tested):
    extra = {"defualt_model": "x", "default_model": "gpt-image-15"}
    assert tested(evolink.url, extra=extra) == (
        True,
        "Connected: 1,000.00 credits left on the account. The extra 'defualt_model' is unknown and not used "
        "(did you mean 'default_model'?). The default model 'gpt-image-15' is not in this provider's catalogue "
        "(did you mean gpt-image-1.5?).",
    )


@pytest.mark.parametrize("value", ["evoimage://:sk/evo#1@", "{broken"])
def test_variable_that_cannot_be_parsed_is_named(monkeypatch, value):
    monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", value)
    works, sentence = EvoImageHook("nowhere").test_connection()
    assert not works
    assert sentence.startswith(
        "The environment variable AIRFLOW_CONN_NOWHERE is set, but Airflow cannot parse it"
    )
    assert value not in sentence
