"""Reference images: those of this simulator are read and shown, the others only named."""

import io

import pytest
from PIL import Image

from tests.integration.simulator.test_simulator_uploads import image_file, uploaded

OTHER = "https://example.com/shoes/trail.png?signature=secret"
TOMATO, NAVY = (255, 99, 71), (0, 0, 128)


def shows(image, colour):
    """Whether a picture holds this colour, or one that JPEG makes of it."""
    colours = {found for _, found in image.convert("RGB").getcolors(maxcolors=2**22)}
    return any(max(abs(a - b) for a, b in zip(colour, found, strict=True)) <= 3 for found in colours)


def mask_file(size=(40, 30)):
    file = io.BytesIO()
    Image.new("RGBA", size, (0, 0, 0, 0)).save(file, "PNG")
    return file.getvalue()


def test_uploaded_references_are_shown(customer):
    red = uploaded(customer, "red.png")["file_url"]
    blue = uploaded(customer, "blue.png", image_file(colour="navy"))["download_url"]
    image = customer.image(customer.finished(image_urls=[red, blue, OTHER])["results"][0])
    assert shows(image, TOMATO)
    assert shows(image, NAVY)
    assert not shows(customer.image(customer.finished()["results"][0]), TOMATO)


def test_other_hosts_are_named_only_and_never_asked(customer):
    task = customer.finished(image_urls=[OTHER])
    (generation,) = customer.state.generations.values()
    assert [reference.name for reference in generation.references] == ["trail.png (example.com)"]
    plain = customer.finished()
    files = [customer.files.get(each["results"][0]).content for each in (task, plain)]
    assert files[0] != files[1]


def test_earlier_result_can_be_a_reference(customer):
    link = customer.finished("a first fox")["results"][0]
    assert customer.finished("a second fox", image_urls=[link])["status"] == "completed"
    assert customer.state.generations.popitem()[1].references[0].thumbnail
    customer.pass_time(86_400)
    late = customer.finished("a third fox", image_urls=[link])
    assert (late["status"], late["error"]["code"]) == ("failed", "image_processing_error")


@pytest.mark.parametrize("how", ["expired", "unknown", "broken", "gif", "large"])
def test_unusable_reference_of_this_simulator_fails_the_generation(customer, how):
    url = uploaded(customer)["file_url"]
    model = "gpt-image-1.5"
    if how == "expired":
        customer.pass_time(72 * 3600)
    elif how == "unknown":
        url = url.replace("photo", "other")
    elif how == "broken":
        url = uploaded(customer, "broken.png", image_file()[:60])["file_url"]
    elif how == "gif":
        url = uploaded(customer, "moving.gif", image_file("GIF"), "image/gif")["file_url"]
    else:
        content = image_file() + bytes(10 * 1024 * 1024)
        url, model = uploaded(customer, "large.png", content)["file_url"], "gpt-4o-image"
    answer = customer.submit(image_urls=[OTHER, url], model=model)
    assert answer.json()["status"] == "pending"
    customer.pass_time()
    task = customer.task(answer.json()["id"])
    assert (task["status"], task["error"]["code"]) == ("failed", "image_processing_error")
    assert customer.credits()["user"]["used_credits"] == 0


def test_gif_is_taken_by_models_that_say_so(customer):
    url = uploaded(customer, "moving.gif", image_file("GIF"), "image/gif")["file_url"]
    assert (
        customer.finished(model="doubao-seedream-4.0", quality="1K", image_urls=[url])["status"]
        == "completed"
    )


def test_reference_of_a_wrong_size_fails_the_generation(customer):
    url = uploaded(customer)["file_url"]
    task = customer.finished(model="qwen-image-edit", image_urls=[url])
    assert task["error"]["code"] == "image_dimension_mismatch"


@pytest.mark.parametrize("url", ["data:image/png;base64,AAAA", "file:///etc/hosts", "http://[x", 7])
def test_what_is_no_web_address_is_refused(customer, url):
    answer = customer.submit(image_urls=[url])
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_media_url"


def test_mask_must_fit_the_first_reference(customer):
    reference = uploaded(customer)["file_url"]
    good = uploaded(customer, "mask.png", mask_file())["file_url"]
    other = uploaded(customer, "small.png", mask_file((20, 30)))["file_url"]
    order = {"model": "gpt-image-2", "image_urls": [reference]}
    assert customer.finished(**order, mask_url=good)["status"] == "completed"
    mismatch = customer.submit(**order, mask_url=other)
    assert mismatch.status_code == 400
    assert mismatch.json()["error"]["code"] == "image_dimension_mismatch"
    opaque = customer.submit(**order, mask_url=reference)
    assert (opaque.status_code, opaque.json()["error"]["param"]) == (400, "mask_url")
    assert customer.finished(**order, mask_url=OTHER)["status"] == "completed"
    assert customer.finished(model="gpt-image-2", mask_url=other)["status"] == "completed"
    dead = customer.finished(**order, mask_url=f"{customer.url}/files/x/y.png")
    assert dead["error"]["code"] == "image_processing_error"


def test_refused_mask_leaves_the_idempotency_key_free(customer):
    reference = uploaded(customer)["file_url"]
    order = {"model": "gpt-image-2", "image_urls": [reference], "key": "airflow-fox-0123456789"}
    assert customer.submit(**order, mask_url=reference).status_code == 400
    assert customer.submit(**order).status_code == 200
    assert customer.counters["paid"] == 1


def test_sixteen_references_fit_into_the_picture(customer):
    urls = [uploaded(customer, f"{number}.png")["file_url"] for number in range(16)]
    image = customer.image(customer.finished(image_urls=urls)["results"][0])
    assert shows(image, TOMATO)
    assert image.size == (1024, 1024)
