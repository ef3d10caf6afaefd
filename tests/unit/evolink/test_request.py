"""One request: what the pages document passes unchanged, what is certainly wrong is named before it is sent."""

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_evoimage.evolink.request import ImageRequest
from airflow_provider_evoimage.exceptions import InvalidRequestError

REFERENCE = "https://example.com/image1.png"
CALLBACK = "https://your-domain.com/webhooks/image-task-completed"
SIX_SIZES = ("1:1", "2:3", "3:2", "1024x1024", "1024x1536", "1536x1024")
RATIOS = [
    "1:1",
    "1:2",
    "2:1",
    "1:3",
    "3:1",
    "2:3",
    "3:2",
    "3:4",
    "4:3",
    "4:5",
    "5:4",
    "9:16",
    "16:9",
    "9:21",
    "21:9",
]
PIXELS = ("1024x1024", "1360x768", "3840x2160", "2160x3840", "2880x2880", "1776x592", "3840x1280", "640x1024")

# Copied from the pages, not from the catalogue.
DOCUMENTED = {
    "gpt-image-1": {"size": SIX_SIZES, "quality": ("low", "medium", "high"), "n": range(1, 11)},
    "gpt-image-1.5": {"size": SIX_SIZES, "quality": ("low", "medium", "high"), "n": (1,)},
    "gpt-image-1.5-beta": {
        "size": SIX_SIZES,
        "quality": ("auto", "low", "medium", "high"),
        "n": range(1, 11),
    },
    "gpt-image-2": {
        "size": ("auto", *RATIOS, *PIXELS),
        "quality": ("low", "medium", "high"),
        "n": range(1, 11),
    },
    "gpt-image-2.5-flare": {
        "size": ("auto", *RATIOS, *PIXELS),
        "quality": ("low", "medium", "high", "xhigh", "max"),
        "n": range(1, 11),
    },
    "gpt-image-2.5-sunburst": {
        "size": ("auto", *RATIOS, *PIXELS),
        "quality": ("low", "medium", "high", "xhigh", "max"),
        "n": range(1, 11),
    },
    "gpt-image-2-beta": {"size": ("auto", *RATIOS)},
}
DOCUMENTED_VALUES = [
    pytest.param(model, name, value, id=f"{model}-{name}-{value}")
    for model, fields in DOCUMENTED.items()
    for name, values in fields.items()
    for value in values
]
DEFAULTS = {
    "gpt-image-1": {"size": "1024x1024", "quality": "high", "n": 1},
    "gpt-image-1.5": {"size": "1024x1024", "quality": "high", "n": 1},
    "gpt-image-1.5-beta": {"size": "1:1", "quality": "auto", "n": 1},
    "gpt-image-2": {"size": "auto", "quality": "medium", "n": 1},
    "gpt-image-2.5-flare": {"size": "auto", "quality": "medium", "n": 1},
    "gpt-image-2.5-sunburst": {"size": "auto", "quality": "medium", "n": 1},
    "gpt-image-2-beta": {"size": "auto"},
}


def request_or_error(**fields):
    try:
        return ImageRequest.build(**fields)
    except InvalidRequestError as error:
        return error


def refused(**fields):
    with pytest.raises(InvalidRequestError) as caught:
        ImageRequest.build(**fields)
    assert caught.value.billed is False
    return caught.value.message


@pytest.mark.parametrize(("model", "name", "value"), DOCUMENTED_VALUES)
def test_documented_value_goes_out_unchanged(model, name, value):
    request = ImageRequest.build(model=model, prompt="a fox", **{name: value})
    assert request.body()[name] == value
    assert type(request.body()[name]) is type(value)
    assert name not in request.defaults


@pytest.mark.parametrize("model", DEFAULTS)
def test_documented_defaults_are_sent_and_named(model):
    request = ImageRequest.build(model=model, prompt="a fox")
    assert request.body() == {"model": model, "prompt": "a fox"} | DEFAULTS[model]
    assert set(request.defaults) == set(DEFAULTS[model])
    assert request.warnings == []
    assert "documented default for" in request.summary


def test_given_values_are_no_defaults():
    request = ImageRequest.build(model="gpt-image-1", prompt="a fox", quality="high", size="1:1", n=1)
    assert request.defaults == ()
    assert "documented default" not in request.summary


@pytest.mark.parametrize("model", [model for model in DOCUMENTED if "beta" not in model])
def test_up_to_sixteen_references_and_a_callback_go_out_unchanged(model):
    urls = [f"https://example.com/image{number}.png" for number in range(16)]
    request = ImageRequest.build(model=model, prompt="a fox", image_urls=urls, callback_url=CALLBACK)
    assert request.body()["image_urls"] == urls
    assert request.body()["callback_url"] == CALLBACK
    assert request.warnings == []


@pytest.mark.parametrize("name", ["size", "quality", "n", "image_urls", "callback_url"])
def test_field_that_is_not_given_is_not_sent_to_an_unknown_model(name):
    assert name not in ImageRequest.build(model="model-of-tomorrow", prompt="a fox").body()


@pytest.mark.parametrize(
    ("fields", "fragments"),
    [
        pytest.param(
            {"model": "gpt-image-1", "size": "16:9"},
            ["size: '16:9'", "1:1, 2:3, 3:2, 1024x1024, 1024x1536, 1536x1024", "evolink.ai/gpt-image-1"],
            id="size-of-another-model",
        ),
        pytest.param(
            {"model": "gpt-image-1", "size": "auto"}, ["size: 'auto'", "allowed: 1:1"], id="size-auto"
        ),
        pytest.param(
            {"model": "gpt-image-1", "quality": "auto"},
            ["quality: 'auto'", "allowed: low, medium, high", "evolink.ai/gpt-image-1"],
            id="quality-auto-of-1",
        ),
        pytest.param({"model": "gpt-image-1", "quality": "HIGH"}, ["quality: 'HIGH'"], id="quality-capitals"),
        pytest.param(
            {"model": "gpt-image-1.5", "quality": "best"},
            ["quality: 'best'", "low, medium, high, auto", "gpt-image-1.5"],
            id="quality-word",
        ),
        pytest.param(
            {"model": "gpt-image-1", "n": 11},
            ["n: 11", "allowed: 1 to 10", "evolink.ai/gpt-image-1"],
            id="n-11",
        ),
        pytest.param({"model": "gpt-image-1", "n": 0}, ["n: ", "greater than or equal to 1", "0"], id="n-0"),
        pytest.param({"model": "gpt-image-1", "n": -1}, ["n: ", "-1"], id="n-negative"),
        pytest.param({"model": "gpt-image-1", "n": 1.5}, ["n: ", "1.5"], id="n-fraction"),
        pytest.param({"model": "gpt-image-1", "n": True}, ["n: must be a whole number", "True"], id="n-bool"),
        pytest.param({"model": "gpt-image-1", "n": "many"}, ["n: ", "'many'"], id="n-word"),
        pytest.param(
            {"model": "gpt-image-1", "image_urls": [REFERENCE] * 17},
            ["image_urls: 17", "allowed: 16", "evolink.ai/gpt-image-1"],
            id="seventeen-references",
        ),
        pytest.param(
            {"model": "gpt-image-1", "image_urls": "/data/a.png"},
            ["image_urls: '/data/a.png' is not an http(s) URL"],
            id="reference-path",
        ),
        pytest.param(
            {"model": "gpt-image-1", "image_urls": "data:image/png;base64,AAAA"},
            ["image_urls: 'data:image/png;base64,AAAA' is not"],
            id="reference-data-url",
        ),
        pytest.param(
            {"model": "gpt-image-1", "image_urls": [REFERENCE, "https://"]}, ["'https://'"], id="no-host"
        ),
        pytest.param({"model": "gpt-image-1", "image_urls": "[1, 2"}, ["not valid JSON"], id="broken-list"),
        pytest.param(
            {"model": "gpt-image-1", "image_urls": "[" * 99_999}, ["not valid JSON"], id="deep-list"
        ),
        pytest.param(
            {"model": "gpt-image-2", "size": "1000x1000"},
            ["size: '1000x1000'", "multiples of 16 from 16 to 3840", "docs.evolink.ai"],
            id="pixels-no-multiple",
        ),
        pytest.param({"model": "gpt-image-2", "size": "3856x1600"}, ["3856x1600"], id="pixels-too-long"),
        pytest.param({"model": "gpt-image-2", "size": "640x640"}, ["655,360 to 8,294,400"], id="pixels-few"),
        pytest.param({"model": "gpt-image-2", "size": "3840x2176"}, ["3840x2176"], id="pixels-many"),
        pytest.param({"model": "gpt-image-2", "size": "3200x1024"}, ["at most 3:1"], id="pixels-ratio"),
        pytest.param(
            {"model": "gpt-image-2", "quality": "xhigh"}, ["allowed: low, medium, high"], id="xhigh-of-2"
        ),
        pytest.param(
            {"model": "gpt-image-2", "extra_body": {"resolution": "8K"}},
            ["extra_body.resolution: '8K'", "1K, 2K, 4K", "docs.evolink.ai"],
            id="resolution-8K",
        ),
        pytest.param(
            {"model": "gpt-image-2", "extra_body": {"output_format": "gif"}},
            ["extra_body.output_format: 'gif'", "png, jpeg, webp"],
            id="format-gif",
        ),
        pytest.param(
            {"model": "gpt-image-2", "extra_body": {"background": "blue"}},
            ["extra_body.background: 'blue'", "opaque, transparent"],
            id="background-blue",
        ),
        pytest.param(
            {"model": "gpt-image-2-beta", "size": "1024x1024"}, ["size: '1024x1024'"], id="2-beta-pixels"
        ),
        pytest.param(
            {"model": "gpt-image-2-beta", "quality": "low"}, ["the model has no quality"], id="2-beta-quality"
        ),
        pytest.param({"model": "gpt-image-2-beta", "n": 2}, ["n: 2"], id="2-beta-n"),
        pytest.param({"model": ""}, ["model: "], id="model-empty"),
        pytest.param({"model": "m" * 201}, ["model: ", "200"], id="model-too-long"),
        pytest.param({"model": 4}, ["model: ", "4"], id="model-number"),
        pytest.param({"prompt": ""}, ["prompt: must not be empty"], id="prompt-empty"),
        pytest.param({"prompt": " \n\t"}, ["prompt: must not be empty"], id="prompt-blank"),
        pytest.param({"prompt": None}, ["prompt: must be text"], id="prompt-none"),
        pytest.param({"prompt": b"a fox"}, ["prompt: must be text"], id="prompt-bytes"),
        pytest.param({"prompt": "a \ud800 fox"}, ["prompt: holds half a character"], id="prompt-surrogate"),
        pytest.param({"extra_body": {"size": "1:1"}}, ["must not repeat size"], id="extra-repeats"),
        pytest.param({"extra_body": {"a": {1}}}, ["must be plain JSON"], id="extra-set"),
        pytest.param({"extra_body": {"a": float("nan")}}, ["must be plain JSON"], id="extra-nan"),
        pytest.param({"prompt": "a \0 fox"}, ["prompt: holds a NUL character"], id="prompt-nul"),
        pytest.param({"extra_body": {"a": [{"b\0": 1}]}}, ["a: holds a NUL character"], id="extra-nul"),
        pytest.param({"extra_body": {"a": "\ud800"}}, ["a: holds half a character"], id="extra-surrogate"),
        pytest.param({"extra_body": "[1]"}, ["extra_body: "], id="extra-list"),
        pytest.param({"extra_body": "{"}, ["text of a JSON object"], id="extra-broken"),
        pytest.param({"extra_body": "[" * 99_999}, ["text of a JSON object"], id="extra-deep"),
        pytest.param({"siez": "1:1"}, ["siez: "], id="misspelt-field"),
    ],
)
def test_certain_mistake_names_field_value_and_what_is_allowed(fields, fragments):
    message = refused(**({"model": "gpt-image-1", "prompt": "a fox"} | fields))
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(("characters", "shown"), [(120, "'{}'"), (121, "'{}…")], ids=["whole", "cut"])
def test_long_value_is_cut_in_the_message(characters, shown):
    value = "x" * (characters - 2)
    message = refused(model="gpt-image-1", prompt="a fox", quality=value)
    assert f"quality: {shown.format(value[:119])} is" in message


def test_missing_fields_are_named():
    message = refused()
    assert "model: is required" in message
    assert "prompt: is required" in message


def test_every_mistake_is_named_at_once():
    message = refused(model="gpt-image-1", prompt="a fox", size="9:9", quality="best", n=99)
    for name in ("size: '9:9'", "quality: 'best'", "n: 99"):
        assert name in message


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"image_urls": 10**5000}, id="huge-number"),
        pytest.param({"n": 10**5000}, id="huge-n"),
        pytest.param({"extra_body": {"a": 10**5000}}, id="huge-extra"),
    ],
)
def test_value_too_large_to_print_is_refused_in_words(fields):
    assert refused(model="gpt-image-1", prompt="a fox", **fields)


@pytest.mark.parametrize(
    ("fields", "disputed"),
    [
        pytest.param({"model": "gpt-image-1.5", "quality": "auto"}, "quality=auto", id="1.5-auto"),
        pytest.param({"model": "gpt-image-1.5", "n": 2}, "n=2", id="1.5-n-2"),
        pytest.param({"model": "gpt-image-1.5", "n": 10}, "n=10", id="1.5-n-10"),
        pytest.param({"model": "gpt-image-1.5-beta", "n": 2}, "n=2", id="beta-n-2"),
        pytest.param(
            {"model": "gpt-image-1.5-beta", "image_urls": [REFERENCE] * 11},
            "11 image_urls",
            id="beta-11-refs",
        ),
        pytest.param({"model": "gpt-image-2", "n": 2}, "n=2", id="2-n-2"),
    ],
)
def test_disputed_value_is_sent_with_a_warning(fields, disputed):
    request = ImageRequest.build(prompt="a fox", **fields)
    (warning,) = request.warnings
    assert disputed in warning
    assert "disagree" in warning
    assert fields["model"] in warning
    for name, value in fields.items():
        assert request.body()[name] == value


@pytest.mark.parametrize(
    ("model", "prompt", "words"),
    [
        ("gpt-image-1", "x" * 2001, "2,001 characters"),
        ("gpt-image-2", "x" * 32_001, "32,001 characters"),
        ("gpt-image-2", "é" * 30_001, "60,002 bytes"),
    ],
    ids=["2001-of-1", "32001-of-2", "60002-bytes-of-2"],
)
def test_prompt_over_a_documented_limit_is_sent_whole_with_a_warning(model, prompt, words):
    request = ImageRequest.build(model=model, prompt=prompt)
    assert request.body()["prompt"] == prompt
    assert words in request.warnings[0]


@pytest.mark.parametrize(
    ("model", "prompt"),
    [("gpt-image-1", "x" * 2000), ("gpt-image-2", "x" * 32_000), ("gpt-image-2", "é" * 30_000)],
    ids=["1", "2", "bytes-of-2"],
)
def test_prompt_at_the_documented_limit_has_no_warning(model, prompt):
    assert ImageRequest.build(model=model, prompt=prompt).warnings == []


def test_unknown_model_passes_with_a_warning_and_sends_only_what_was_given():
    request = ImageRequest.build(
        model="seedream-9", prompt="a fox", size="19.5:9", quality="4K", n=15, extra_body={"seed": 7}
    )
    assert request.body() == {
        "model": "seedream-9",
        "prompt": "a fox",
        "size": "19.5:9",
        "quality": "4K",
        "n": 15,
        "seed": 7,
    }
    assert request.defaults == ()
    assert "seedream-9 is not in this provider's catalogue" in request.warnings[0]
    assert ImageRequest.build(model="seedream-9", prompt="a fox").body() == {
        "model": "seedream-9",
        "prompt": "a fox",
    }


@pytest.mark.parametrize(
    ("name", "given_value", "sent"),
    [
        pytest.param("n", "4", 4, id="n-text"),
        pytest.param("n", " 4 ", 4, id="n-blanks"),
        pytest.param("n", "4.0", 4, id="n-decimal-text"),
        pytest.param("n", 4.0, 4, id="n-float"),
        pytest.param("n", "", 1, id="n-empty-is-default"),
        pytest.param("n", "None", 1, id="n-None-is-default"),
        pytest.param("size", " 1024×1024 ", "1024x1024", id="size-times-sign"),
        pytest.param("size", "1024X1536", "1024x1536", id="size-capital-x"),
        pytest.param("size", "1024 x 1536", "1024x1536", id="size-blanks"),
        pytest.param("size", "", "1024x1024", id="size-empty-is-default"),
        pytest.param("size", "None", "1024x1024", id="size-None-is-default"),
        pytest.param("quality", " low ", "low", id="quality-blanks"),
        pytest.param("quality", "null", "high", id="quality-null-is-default"),
        pytest.param("model", " gpt-image-1 ", "gpt-image-1", id="model-blanks"),
        pytest.param("image_urls", REFERENCE, [REFERENCE], id="one-url"),
        pytest.param("image_urls", f'["{REFERENCE}"]', [REFERENCE], id="json-list"),
        pytest.param("image_urls", (REFERENCE,), [REFERENCE], id="tuple"),
        pytest.param("image_urls", iter([REFERENCE]), [REFERENCE], id="iterator"),
        pytest.param("image_urls", [], None, id="empty-list"),
        pytest.param("image_urls", "[]", None, id="json-empty-list"),
        pytest.param("image_urls", "", None, id="refs-empty"),
        pytest.param("image_urls", "None", None, id="refs-None"),
        pytest.param("callback_url", "", None, id="callback-empty"),
        pytest.param("callback_url", "None", None, id="callback-None"),
    ],
)
def test_what_a_template_renders_reads_as_meant(name, given_value, sent):
    request = ImageRequest.build(**({"model": "gpt-image-1", "prompt": "a fox"} | {name: given_value}))
    assert request.body().get(name) == sent


@pytest.mark.parametrize(
    "given_value", [{"seed": 7}, '{"seed": 7}', ' {"seed": 7} '], ids=["dict", "json", "blanks"]
)
def test_extra_body_goes_out_as_fields(given_value):
    body = ImageRequest.build(model="model-of-tomorrow", prompt="a fox", extra_body=given_value).body()
    assert body == {"model": "model-of-tomorrow", "prompt": "a fox", "seed": 7}


@pytest.mark.parametrize("given_value", [None, "", "None", "{}", {}], ids=repr)
def test_empty_extra_body_adds_nothing(given_value):
    assert set(ImageRequest.build(model="m", prompt="a fox", extra_body=given_value).body()) == {
        "model",
        "prompt",
    }


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hook",
        "https://example.com:8443/hook?token=a#b",
        "https://8.8.8.8/hook",
        "https://[2001:4860:4860::8888]/hook",
        "HTTPS://EXAMPLE.COM/hook",
        "https://local.example.com/hook",
        "https://localhost.example.com/",
    ],
)
def test_public_https_callback_goes_out_unchanged(url):
    request = ImageRequest.build(model="gpt-image-1", prompt="a fox", callback_url=url)
    assert request.body()["callback_url"] == url


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "ftp://example.com/hook",
        "example.com/hook",
        "https:///hook",
        "https://",
        "hook",
        "https://[::1",
    ],
)
def test_callback_that_is_no_https_url_is_refused(url):
    message = refused(model="gpt-image-1", prompt="a fox", callback_url=url)
    assert "callback_url: must be an https URL" in message
    assert repr(url) in message
    assert "HTTPS only" in message


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost.",
        "LOCALHOST",
        "app.localhost",
        "foo.local",
        "foo.internal",
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "0177.0.0.1",
        "2130706433",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "[fc00::1]",
        "10.1.2.3",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "10.0.0.1:8443",
    ],
)
def test_callback_to_an_internal_host_is_refused(host):
    message = refused(model="gpt-image-1", prompt="a fox", callback_url=f"https://{host}/hook")
    assert "private or loopback" in message
    assert "no internal IPs" in message


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/\r\nX-Injected: 1",
        "https://example.com/\thook",
        "https://example.com/a hook",
        "https://example.com/\x7f",
    ],
)
def test_callback_with_spaces_or_control_characters_is_refused(url):
    assert "no control characters" in refused(model="gpt-image-1", prompt="p", callback_url=url)


def test_callback_with_credentials_is_refused_without_showing_them():
    message = refused(model="gpt-image-1", prompt="p", callback_url="https://user:secret@example.com/hook")
    assert "no user and no password" in message
    assert "secret" not in message


def test_callback_of_2048_characters_passes_and_one_more_does_not():
    url = "https://example.com/".ljust(2048, "x")
    assert ImageRequest.build(model="gpt-image-1", prompt="p", callback_url=url).body()["callback_url"] == url
    assert "2048" in refused(model="gpt-image-1", prompt="p", callback_url=f"{url}x")


@pytest.mark.parametrize("model", ["model-of-tomorrow", "gpt-image-2-beta"])
def test_callback_rules_hold_for_every_model(model):
    assert "callback_url" in refused(model=model, prompt="p", callback_url="https://localhost/")


# Property tests

PROMPTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda text: text.strip()
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.just(object())
    | st.just(Decimal("1.5")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=5), inner, max_size=4)
        | st.tuples(inner)
    ),
    max_leaves=8,
)
FIELDS = ("model", "prompt", "size", "quality", "n", "image_urls", "callback_url", "extra_body")


@settings(deadline=None)
@given(prompt=PROMPTS, model=st.sampled_from([*DOCUMENTED, "model-of-tomorrow"]))
def test_any_prompt_that_is_not_blank_goes_out_unchanged(prompt, model):
    assert ImageRequest.build(model=model, prompt=prompt).body()["prompt"] == prompt


@pytest.mark.parametrize(
    "prompt",
    [
        "🦊👩‍🚀🏳️‍🌈",
        "ثعلب أحمر",
        "שועל אדום",
        "\u202eright to left\u202c",
        "日本の狐",
        "e\u0301",
        " padded ",
        "{{ jinja }}",
    ],
    ids=["emoji", "arabic", "hebrew", "override", "japanese", "combining", "blanks", "braces"],
)
def test_prompt_of_any_script_goes_out_unchanged(prompt):
    assert ImageRequest.build(model="gpt-image-1", prompt=prompt).body()["prompt"] == prompt


@settings(deadline=None)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), JUNK))
def test_junk_arguments_raise_nothing_but_our_error(fields):
    built = request_or_error(**({"model": "gpt-image-1", "prompt": "a fox"} | fields))
    if isinstance(built, InvalidRequestError):
        assert str(built)
    else:
        assert isinstance(built.body(), dict)
        assert built.summary
        assert isinstance(built.warnings, list)


@settings(deadline=None)
@given(name=st.text(), value=JUNK)
def test_any_unknown_argument_is_refused_in_words(name, value):
    if name in {*FIELDS, "defaults", "self", "cls"}:
        return
    with pytest.raises(InvalidRequestError):
        ImageRequest.build(**({"model": "gpt-image-1", "prompt": "a fox"} | {name: value}))


@settings(deadline=None)
@given(url=st.text() | st.from_regex(r"https?://[^/]*/.*", fullmatch=True))
def test_any_text_as_url_is_accepted_or_refused_in_words(url):
    for name in ("callback_url", "image_urls"):
        built = request_or_error(**{"model": "gpt-image-1", "prompt": "a fox", name: url})
        assert isinstance(built, ImageRequest) or name in str(built)


def test_uploads_take_the_place_of_content_addresses_and_of_nothing_else():
    one, other = (f"sha256:{letter * 64}" for letter in "ab")
    request = ImageRequest.build(
        model="gpt-image-2",
        prompt="a fox",
        image_urls=[one, REFERENCE, one],
        extra_body={"mask_url": other, "background": "opaque"},
    )
    body = request.with_uploads({one: "https://x.example/1", other: "https://x.example/2"}).body()
    assert body["image_urls"] == ["https://x.example/1", REFERENCE, "https://x.example/1"]
    assert (body["mask_url"], body["background"]) == ("https://x.example/2", "opaque")
    assert request.extra_body["mask_url"] == other


@pytest.mark.parametrize("prompt", ["None", " null "])
def test_prompt_that_a_template_rendered_from_nothing_is_refused(prompt):
    with pytest.raises(InvalidRequestError, match="what a template renders None to"):
        ImageRequest.build(model="gpt-image-1", prompt=prompt)


def test_set_of_references_is_refused():
    with pytest.raises(InvalidRequestError, match="order of references counts"):
        ImageRequest.build(model="gpt-image-1", prompt="a fox", image_urls={REFERENCE})


@pytest.mark.parametrize(
    "fields",
    [
        {"callback_url": "http://user:hush@example.com/hook?token=hush"},
        {"image_urls": ["https://example.com/a.png?sig=hush", "nowhere"]},
    ],
    ids=["callback_url", "image_urls"],
)
def test_mistake_in_a_url_shows_no_secret(fields):
    with pytest.raises(InvalidRequestError) as refused:
        ImageRequest.build(model="gpt-image-1", prompt="a fox", **fields)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("model", ["gpt-image-2", "gpt-image-2.5-flare"])
def test_jpeg_cannot_be_transparent(model):
    fields = {"background": "transparent", "output_format": "JPEG"}
    with pytest.raises(InvalidRequestError, match="transparent needs output_format png or webp"):
        ImageRequest.build(model=model, prompt="a fox", extra_body=fields)
    ImageRequest.build(model=model, prompt="a fox", extra_body={**fields, "output_format": "webp"})
