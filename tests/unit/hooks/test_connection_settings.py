"""An Airflow connection, however it was made, becomes an account; what cannot be used is named."""

import json

import hypothesis
import pytest
from airflow.models import Connection as StoredConnection
from airflow.sdk import Connection
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_evoimage.exceptions import ConnectionNotFoundError, ConnectionSettingsError
from airflow_provider_evoimage.get_provider_info import get_provider_info
from airflow_provider_evoimage.hooks.connection import EXTRAS, ConnectionSettings
from airflow_provider_evoimage.hooks.evoimage import EvoImageHook

API_KEY = "sk-evo-0123456789abcdef"
DEFAULT_URL = "https://api.evolink.ai"
FORM_FIELDS = tuple(get_provider_info()["connection-types"][0]["conn-fields"])


def connection(**fields):
    extra = fields.pop("extra", None)
    return Connection(
        conn_id="evo",
        **({"conn_type": "evoimage", "password": API_KEY} | fields),
        extra=json.dumps(extra) if isinstance(extra, dict) else extra,
    )


def settings(**fields):
    return ConnectionSettings.read(connection(**fields))


def settings_or_error(**fields):
    try:
        return settings(**fields)
    except ConnectionSettingsError as error:
        return error


def refused(**fields):
    with pytest.raises(ConnectionSettingsError) as caught:
        settings(**fields)
    assert API_KEY not in str(caught.value)
    assert caught.value.billed is False
    return caught.value.message


def assert_defaults(read):
    assert read.account.base_url == DEFAULT_URL
    assert read.account.api_key == API_KEY
    assert read.account.request_timeout == 60
    assert read.account.max_requests_per_second is None
    assert read.account.trust_idempotency is True
    assert read.default_model == "gpt-image-1.5"
    assert read.idempotency_namespace == ""
    assert read.account.files_base_url == settings().account.files_base_url
    assert (read.download_limits.bytes, read.download_limits.seconds) == (200_000_000, 600)


# How a connection is made


@pytest.mark.parametrize("kind", [Connection, StoredConnection], ids=["of-the-sdk", "of-the-database"])
def test_connection_with_nothing_but_a_key_has_every_default(kind):
    assert_defaults(ConnectionSettings.read(kind(conn_id="evo", conn_type="evoimage", password=API_KEY)))


@pytest.mark.parametrize("empty", [None, ""], ids=["null", "empty"])
def test_form_left_empty_has_every_default(empty):
    extra = dict.fromkeys(FORM_FIELDS, empty)
    assert_defaults(settings(host="", schema="", login="", port=None, extra=extra))


@pytest.mark.parametrize("extra", [None, "", "  ", "\n", "null", " null "])
def test_extra_that_is_empty_or_null_has_every_default(extra):
    read = connection()
    read.extra = extra
    assert_defaults(ConnectionSettings.read(read))


def test_form_filled_in_is_read_whole():
    read = settings(
        host=" https://beta-api.evolink.ai/v1/ ",
        port=443,
        password=f" {API_KEY}\n",
        extra={
            "default_model": " gpt-image-2 ",
            "request_timeout": 15,
            "max_requests_per_second": 0.5,
            "idempotency": "ignored",
            "idempotency_namespace": " staging ",
        },
    )
    assert read.account.base_url == "https://beta-api.evolink.ai"
    assert read.account.api_key == API_KEY
    assert read.account.request_timeout == 15
    assert read.account.max_requests_per_second == 0.5
    assert read.account.trust_idempotency is False
    assert read.default_model == "gpt-image-2"
    assert read.idempotency_namespace == "staging"


def test_fields_that_are_not_ours_change_nothing():
    assert_defaults(settings(extra={"region": "eu", "extra__evoimage__default_model": "x", "timeout": 5}))


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        (f"evoimage://:{API_KEY}@", DEFAULT_URL),
        (f"evoimage://:{API_KEY}@/", DEFAULT_URL),
        (f"evoimage://:{API_KEY}@api.evolink.ai", DEFAULT_URL),
        (f"evoimage://:{API_KEY}@api.evolink.ai:443", DEFAULT_URL),
        (f"evoimage://:{API_KEY}@api.evolink.ai/https", DEFAULT_URL),
        (f"evoimage://:{API_KEY}@https%3A%2F%2Fapi.evolink.ai%2Fv1", DEFAULT_URL),
        (f"evoimage://https://:{API_KEY}@api.evolink.ai:8443", "https://api.evolink.ai:8443"),
        (f"evoimage://:{API_KEY}@127.0.0.1:8585", "http://127.0.0.1:8585"),
        (f"evoimage://:{API_KEY}@127.0.0.1:8585/http", "http://127.0.0.1:8585"),
        (f"evoimage://:{API_KEY}@localhost:8585", "http://localhost:8585"),
        (f"evoimage://:{API_KEY}@[::1]:8585", "http://[::1]:8585"),
    ],
)
def test_connection_from_a_uri_reaches_its_host(uri, base_url):
    read = ConnectionSettings.read(Connection.from_uri(uri, conn_id="evo"))
    assert read.account.base_url == base_url
    assert read.account.api_key == API_KEY


def test_extra_of_a_uri_holds_numbers_as_text():
    uri = (
        f"evoimage://:{API_KEY}@/?request_timeout=15&max_requests_per_second=0.5&idempotency=ignored"
        "&default_model=gpt-image-2&idempotency_namespace=staging"
    )
    read = ConnectionSettings.read(Connection.from_uri(uri, conn_id="evo"))
    assert read.account.request_timeout == 15
    assert read.account.max_requests_per_second == 0.5
    assert read.account.trust_idempotency is False
    assert read.default_model == "gpt-image-2"
    assert read.idempotency_namespace == "staging"


@pytest.mark.parametrize(
    "extra",
    [{"request_timeout": "15"}, '{"request_timeout": 15}'],
    ids=["object", "text"],
)
def test_connection_from_json_may_nest_its_extra_or_not(monkeypatch, extra):
    monkeypatch.setenv(
        "AIRFLOW_CONN_EVO", json.dumps({"conn_type": "evoimage", "password": API_KEY, "extra": extra})
    )
    assert EvoImageHook("evo").settings.account.request_timeout == 15


def test_environment_variable_in_uri_form_is_read_by_the_hook(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_EVO", f"evoimage://:{API_KEY}@127.0.0.1:8585/?default_model=m")
    read = EvoImageHook("evo").settings
    assert read.account.base_url == "http://127.0.0.1:8585"
    assert read.account.api_key == API_KEY
    assert read.default_model == "m"


async def test_trigger_reads_the_same_connection(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_EVO", f"evoimage://:{API_KEY}@127.0.0.1:8585")
    hook = EvoImageHook("evo")
    assert await hook.aget_settings() == hook.settings


def test_changed_connection_is_read_after_reconnecting(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_EVO", "evoimage://:first-key@")
    hook = EvoImageHook("evo")
    assert hook.settings.account.api_key == "first-key"
    monkeypatch.setenv("AIRFLOW_CONN_EVO", "evoimage://:second-key@")
    assert hook.settings.account.api_key == "first-key"
    hook.reconnect()
    assert hook.settings.account.api_key == "second-key"


@pytest.mark.parametrize(
    ("host", "schema", "port", "base_url"),
    [
        (None, None, 443, DEFAULT_URL),
        ("", "https", None, DEFAULT_URL),
        ("api.evolink.ai", None, None, DEFAULT_URL),
        ("api.evolink.ai", "https", 443, DEFAULT_URL),
        ("https://api.evolink.ai", "https", 443, DEFAULT_URL),
        ("https://api.evolink.ai:8443", None, 9000, "https://api.evolink.ai:8443"),
        ("https://proxy.example.com/evolink/v1", None, 8443, "https://proxy.example.com:8443/evolink"),
        ("127.0.0.1", None, 8585, "http://127.0.0.1:8585"),
        ("127.0.0.1:8585", None, 443, "http://127.0.0.1:8585"),
        ("::1", None, 8585, "http://[::1]:8585"),
        ("[::1]", None, 8585, "http://[::1]:8585"),
        ("http://[::1]:8585", None, None, "http://[::1]:8585"),
    ],
)
def test_host_schema_and_port_make_one_address(host, schema, port, base_url):
    assert settings(host=host, schema=schema, port=port).account.base_url == base_url


# What cannot be used


@pytest.mark.parametrize("password", [None, "", "   ", "\n"])
def test_missing_key_is_named_and_says_where_it_goes(password):
    message = refused(password=password)
    assert "'evo' has no API key" in message
    assert "password field" in message


@pytest.mark.parametrize(
    "password",
    [f"Bearer {API_KEY}", f"{API_KEY}\n{API_KEY}", f"{API_KEY}\x00", "sk-évo", "sk-evo\u200b1", "ключ"],
    ids=["bearer", "two-lines", "nul", "accent", "zero-width", "cyrillic"],
)
def test_key_that_no_header_can_carry_is_refused_without_being_shown(password):
    message = refused(password=password)
    assert "paste it again" in message
    assert password not in message


@pytest.mark.parametrize("name", ["password", "host"])
@pytest.mark.parametrize("value", [12345, 0, 1.5, True, {"a": 1}, [API_KEY]], ids=str)
def test_field_that_is_no_text_is_refused_by_name_without_being_shown(name, value):
    read = connection()
    setattr(read, name, value)
    with pytest.raises(
        ConnectionSettingsError, match=f"The {name} of connection 'evo' must be text"
    ) as caught:
        ConnectionSettings.read(read)
    assert str(value) not in str(caught.value)


@pytest.mark.parametrize("extra", ["[1]", "5", '"x"', "[]", "{", "default_model", "[" * 99_999], ids=range(7))
def test_extra_that_is_no_object_is_refused(extra):
    assert "extra of connection 'evo' is not a JSON object" in refused(extra=extra)


@pytest.mark.parametrize("name", ["request_timeout", "max_requests_per_second"])
@pytest.mark.parametrize(
    "value",
    [0, -1, "0", "-1", "fast", "1,5", True, [], {}, [5], "nan", "inf", float("inf"), 10**400],
    ids=str,
)
def test_number_that_is_none_is_refused_by_name(name, value):
    message = refused(extra={name: value})
    assert name in message
    assert "must be a number above 0" in message


@pytest.mark.parametrize(("value", "number"), [(5, 5), (0.5, 0.5), ("5", 5), (" 0.5 ", 0.5), ("1e1", 10)])
def test_number_may_be_text(value, number):
    assert settings(extra={"request_timeout": value}).account.request_timeout == number


@pytest.mark.parametrize("name", ["default_model", "idempotency_namespace", "idempotency"])
@pytest.mark.parametrize("value", [5, True, [], {"a": 1}], ids=repr)
def test_text_that_is_none_is_refused_by_name(name, value):
    message = refused(extra={name: value})
    assert name in message
    assert "must be text" in message


@pytest.mark.parametrize("value", ["yes", "Trusted", "ignore", "false"])
def test_idempotency_is_one_of_two_words(value):
    message = refused(extra={"idempotency": value})
    assert "idempotency must be 'trusted' or 'ignored'" in message
    assert repr(value) in message


def test_idempotency_trusted_is_the_default_in_words():
    assert settings(extra={"idempotency": "trusted"}).account.trust_idempotency is True


@pytest.mark.parametrize(
    "host", ["https://docs.evolink.ai", "http://api.evolink.ai", "ftp://api.evolink.ai", "my host", "[::1"]
)
def test_host_that_cannot_be_the_apis_is_refused(host):
    assert "host" in refused(host=host)


@pytest.mark.parametrize("conn_id", ["nowhere", "", None, 5], ids=repr)
def test_missing_connection_is_named_with_what_to_create(conn_id):
    with pytest.raises(ConnectionNotFoundError, match="create one of type 'evoimage'") as caught:
        _ = EvoImageHook(conn_id).settings
    assert repr(conn_id) in str(caught.value)
    # Airflow says the same when a secrets backend fails.
    assert caught.value.retryable


async def test_missing_connection_is_named_to_a_trigger_too():
    with pytest.raises(ConnectionNotFoundError, match="Airflow finds no connection 'nowhere'"):
        await EvoImageHook("nowhere").aget_settings()


# Secrets


def test_no_printed_form_holds_the_key(monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_EVO", f"evoimage://:{API_KEY}@")
    hook = EvoImageHook("evo")
    for shown in (hook.settings, hook.settings.account, hook, hook.get_conn(), vars(hook)):
        assert API_KEY not in repr(shown)
        assert API_KEY not in str(shown)
    hook.close()


@hypothesis.settings(deadline=None)
@given(
    extra=st.dictionaries(st.sampled_from(FORM_FIELDS), st.none() | st.integers() | st.floats() | st.text())
)
def test_any_extra_is_read_or_refused_in_words(extra):
    read = settings_or_error(extra=extra)
    if isinstance(read, ConnectionSettingsError):
        assert "'evo'" in str(read)
    else:
        assert read.account.request_timeout > 0


@hypothesis.settings(deadline=None)
@given(host=st.text(), schema=st.none() | st.text(), port=st.none() | st.integers(0, 65_535))
def test_any_host_is_read_or_refused_in_words(host, schema, port):
    read = settings_or_error(host=host, schema=schema, port=port)
    if isinstance(read, ConnectionSettingsError):
        assert str(read)
    else:
        assert read.account.base_url.startswith(("https://", "http://"))


@pytest.mark.parametrize("kind", ["openai", "http", "generic", "aws"])
def test_connection_of_another_type_is_refused_as_its_key_is_not_evolinks(kind):
    assert f"is of type {kind!r}" in refused(conn_type=kind)


@pytest.mark.parametrize("kind", ["evoimage", "", None])
def test_connection_without_a_type_is_ours(kind):
    assert settings(conn_type=kind).account.api_key == API_KEY


def test_form_has_a_field_for_each_extra():
    form = get_provider_info()["connection-types"][0]["conn-fields"]
    assert sorted(form) == sorted(EXTRAS)
