"""The files API: three ways in, quota, expiry, receipts, and its own error bodies."""

import base64
import http.server
import io
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from PIL import Image

from airflow_provider_evoimage.simulator.service import uploads
from airflow_provider_evoimage.simulator.service.names import Names
from tests.crowded_lock import CrowdedLock

UPLOAD_ID = "upload-0123456789"
CUT = (httpx.RemoteProtocolError, httpx.ReadError)


def image_file(file_format="PNG", size=(40, 30), colour="tomato"):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, file_format)
    return file.getvalue()


def upload(customer, name="photo.png", content=None, declared="image/png", headers=None, **fields):
    files = {"file": (name, image_file() if content is None else content, declared)}
    return customer.http.post("/api/v1/files/upload/stream", files=files, data=fields, headers=headers)


def uploaded(customer, *arguments, **fields):
    answer = upload(customer, *arguments, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def quota(customer):
    return customer.http.get("/api/v1/files/quota").json()["data"]


@contextmanager
def web_server(content, content_type="image/png", status=200):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("content-type", content_type)
            if status == 302:
                self.send_header("location", "https://example.com/")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/some%20photo.png?signature=x"
        server.shutdown()


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "WEBP"])
def test_streamed_file_is_served_under_both_urls(customer, file_format):
    content, kind = image_file(file_format), f"image/{file_format.lower()}"
    data = uploaded(customer, f"photo.{file_format.lower()}", content, kind, upload_path="photos/spring")
    assert (data["mime_type"], data["file_size"], data["upload_path"]) == (
        kind,
        len(content),
        "photos/spring",
    )
    for link in (data["file_url"], data["download_url"]):
        answer = customer.files.get(link)
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["content-type"] == kind
        assert int(answer.headers["content-length"]) == len(content)
    assert "attachment" in customer.files.get(data["download_url"]).headers["content-disposition"]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_base64_is_taken_raw_and_as_a_data_url(customer, prefix):
    content = image_file()
    body = {"base64_data": prefix + base64.b64encode(content).decode(), "file_name": "mug"}
    answer = customer.http.post("/api/v1/files/upload/base64", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["data"]["file_name"] == "mug.png"
    assert customer.files.get(answer.json()["data"]["file_url"]).content == content


def test_file_is_fetched_from_this_machine(customer):
    with web_server(image_file()) as url:
        answer = customer.http.post("/api/v1/files/upload/url", json={"file_url": url})
    assert answer.json()["data"]["file_name"] == "some photo.png"
    assert customer.files.get(answer.json()["data"]["file_url"]).content == image_file()


def test_result_can_be_made_an_upload(customer):
    link = customer.finished()["results"][0]
    answer = customer.http.post("/api/v1/files/upload/url", json={"file_url": link})
    assert customer.image(answer.json()["data"]["file_url"]).size == (1024, 1024)
    assert customer.counters["downloads"] == 1


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/a.png", "http://example.com/a.png", "http://169.254.169.254/x", "ftp://localhost/x",
        "http://localhost:1/none.png", "not a url", "http://[::1", "https://localhost:99999/x",
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_refused(customer, url):
    answer = customer.http.post("/api/v1/files/upload/url", json={"file_url": url})
    assert (answer.status_code, answer.json()["code"]) == (400, 40004)


@pytest.mark.parametrize(("status", "code"), [(404, 40004), (302, 40004)])
def test_only_a_good_answer_is_taken_and_no_redirect_is_followed(customer, status, code):
    with web_server(image_file(), status=status) as url:
        answer = customer.http.post("/api/v1/files/upload/url", json={"file_url": url})
    assert answer.json()["code"] == code


def test_dead_link_of_this_simulator_is_refused(customer):
    url = f"{customer.url}/files/nobody/x.png"
    answer = customer.http.post("/api/v1/files/upload/url", json={"file_url": url})
    assert answer.json()["code"] == 40004


@pytest.mark.parametrize(
    ("content", "declared"),
    [
        (b"%PDF-1.7", "image/png"),
        (image_file(), "application/pdf"),
        (image_file("JPEG"), "image/png"),
        (b"", ""),
    ],
)
def test_other_types_are_refused(customer, content, declared):
    answer = upload(customer, "x.png", content, declared)
    assert (answer.status_code, answer.json()["code"]) == (400, 40002)
    assert quota(customer)["used_files"] == 0


def test_type_need_not_be_declared(customer):
    assert (
        uploaded(customer, "x.png", image_file("WEBP"), "application/octet-stream")["mime_type"]
        == "image/webp"
    )


@pytest.fixture
def small_limit(monkeypatch):
    for module in ("service.uploads", "http.file_routes"):
        monkeypatch.setattr(f"airflow_provider_evoimage.simulator.{module}.MAX_BYTES", 2000)
    monkeypatch.setattr("airflow_provider_evoimage.simulator.http.file_routes.MAX_FORM_BYTES", 4000)
    monkeypatch.setattr("airflow_provider_evoimage.simulator.http.file_routes.MAX_BASE64_BYTES", 4000)


@pytest.mark.parametrize("length", [2001, 3_000_000])
def test_too_large_file_is_refused_after_it_was_sent(customer, small_limit, length):
    content = image_file() + bytes(length)
    answer = upload(customer, content=content)
    assert (answer.status_code, answer.json()["code"]) == (400, 40001)
    body = {"base64_data": base64.b64encode(content).decode()}
    answer = customer.http.post("/api/v1/files/upload/base64", json=body)
    assert answer.json()["code"] == 40001
    with web_server(content) as url:
        answer = customer.http.post("/api/v1/files/upload/url", json={"file_url": url})
    assert answer.json()["code"] == 40001


def test_limit_is_the_documented_one():
    assert uploads.MAX_BYTES == 100 * 1024 * 1024


def test_same_path_and_name_replace(customer):
    old = uploaded(customer, content=image_file(colour="navy"))
    new = uploaded(customer)
    assert old["file_url"] == new["file_url"]
    assert customer.files.get(new["file_url"]).content == image_file()
    assert quota(customer)["used_files"] == 1
    assert customer.files.get(old["download_url"]).status_code == 404


def test_quota_is_kept_and_freed(customer):
    assert quota(customer) == {
        "user_group": "default",
        "used_files": 0,
        "max_files": 100,
        "remain_files": 100,
    }
    customer.control("POST", "settings", files_quota=2)
    first = uploaded(customer, "1.png")
    uploaded(customer, "2.png")
    refused = upload(customer, "3.png")
    assert (refused.status_code, refused.json()["code"]) == (400, 40003)
    uploaded(customer, "2.png")
    removed = customer.http.delete(f"/api/v1/files/{first['file_id']}")
    assert removed.json()["success"] is True
    assert customer.files.get(first["file_url"]).status_code == 404
    assert customer.http.delete(f"/api/v1/files/{first['file_id']}").status_code == 404
    uploaded(customer, "3.png")
    customer.control("POST", "settings", files_quota=500)
    assert quota(customer) == {"user_group": "vip", "used_files": 2, "max_files": 500, "remain_files": 498}


def test_files_expire_after_72_hours(customer):
    data = uploaded(customer)
    customer.pass_time(72 * 3600 - 1)
    assert customer.files.get(data["file_url"]).status_code == 200
    customer.pass_time(1)
    assert customer.files.get(data["file_url"]).status_code == 404
    assert customer.files.get(data["download_url"]).status_code == 404
    assert quota(customer)["used_files"] == 0


def test_files_are_listed_newest_first_in_pages(customer):
    for number in range(3):
        uploaded(customer, f"{number}.png")
    data = customer.http.get("/api/v1/files/list", params={"page": 1, "pageSize": 2}).json()["data"]
    assert data["total"] == 3
    assert [file["file_name"] for file in data["files"]] == ["2.png", "1.png"]
    assert set(data["files"][0]) == {"file_id", "file_name", "file_size", "upload_time"}
    assert customer.http.get("/api/v1/files/list", params={"pageSize": 101}).status_code == 400


def test_files_belong_to_their_account(customer):
    data = uploaded(customer)
    customer.control("POST", "settings", api_keys={"sk-other": "other"})
    other = {"authorization": "Bearer sk-other"}
    assert customer.http.get("/api/v1/files/quota", headers=other).json()["data"]["used_files"] == 0
    assert customer.http.delete(f"/api/v1/files/{data['file_id']}", headers=other).status_code == 404


@pytest.mark.parametrize(
    "fields",
    [
        {"upload_path": "../x"}, {"upload_path": "a/../../b"}, {"upload_path": "a//b"}, {"upload_path": "x" * 257},
        {"file_name": "a/b.png"}, {"file_name": ".."}, {"fileName": "a\\b"}, {"file_name": "x" * 256},
    ],
)  # fmt: skip
def test_name_that_leads_elsewhere_is_refused(customer, fields):
    answer = upload(customer, **fields)
    assert answer.status_code == 400
    assert answer.json()["success"] is False


def test_any_file_name_can_be_downloaded(customer):
    for name in ("日本 語.png", 'q"uote.png', "a%2Fb.png", "50%.png", "x?y#z.png"):
        data = uploaded(customer, file_name=name)
        assert data["file_name"] == name
        assert customer.files.get(data["file_url"]).status_code == 200, name
        assert customer.files.get(data["download_url"]).status_code == 200, name


@pytest.mark.parametrize("with_200", [False, True])
def test_errors_have_the_shape_of_the_files_api(customer, with_200):
    customer.control("POST", "settings", files_errors_with_200=with_200)
    wrong = upload(customer, content=b"text")
    assert wrong.status_code == (200 if with_200 else 400)
    assert set(wrong.json()) == {"success", "code", "msg"}
    keyless = httpx.get(f"{customer.url}/api/v1/files/quota", trust_env=False)
    assert keyless.status_code == (200 if with_200 else 401)
    assert keyless.json()["code"] == 401
    assert customer.http.get("/api/v1/files/nowhere/x").json()["success"] is False


def test_storage_error(customer, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(customer.state.uploads, "keep", full)
    answer = upload(customer)
    assert (answer.status_code, answer.json()["code"]) == (500, 50001)


@pytest.mark.parametrize(
    ("path", "request_body"),
    [
        ("stream", {"content": b"x"}),
        ("stream", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        ("stream", {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=a"}}),
        ("stream", {"data": {"file": "no file"}, "files": {"other": ("a.png", b"x")}}),
        ("base64", {"json": {}}),
        ("base64", {"json": {"base64_data": "***"}}),
        ("base64", {"json": {"base64_data": "é"}}),
        ("base64", {"content": b"{"}),
        ("url", {"json": []}),
        ("url", {"json": {"file_url": 7}}),
    ],
)
def test_body_that_is_no_upload_is_refused(customer, path, request_body):
    answer = customer.http.post(f"/api/v1/files/upload/{path}", **request_body)
    assert answer.status_code == 400
    assert answer.json()["success"] is False


def test_lost_reply_is_found_by_its_upload_id(customer):
    customer.control("POST", "faults", route="upload", kind="cut", after=True, times=1)
    with pytest.raises(CUT):
        upload(customer, headers={"x-evo-upload-id": UPLOAD_ID})
    receipt = customer.http.get(f"/api/v1/files/upload-receipts/{UPLOAD_ID}")
    assert customer.files.get(receipt.json()["data"]["file_url"]).status_code == 200
    assert customer.counters["uploads"] == 1
    assert customer.http.get("/api/v1/files/upload-receipts/upload-unknown-00").status_code == 404
    customer.control("POST", "settings", upload_receipts=False)
    assert customer.http.get(f"/api/v1/files/upload-receipts/{UPLOAD_ID}").status_code == 404
    assert upload(customer, headers={"x-evo-upload-id": "short"}).status_code == 400


def test_posted_faults_happen_on_uploads_and_the_other_files_routes(customer):
    customer.control("POST", "faults", route="upload", kind="status", status=503, retry_after=2, times=1)
    customer.control("POST", "faults", route="files", kind="junk", times=1)
    refused = upload(customer)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json()["success"] is False
    assert customer.counters["uploads"] == 0
    with pytest.raises(ValueError, match="delimiter"):
        customer.http.get("/api/v1/files/quota").json()
    assert upload(customer).status_code == 200


def test_uploaded_files_can_be_spoiled_like_results(customer):
    data = uploaded(customer)
    customer.control("POST", "faults", route="download", kind="html", times=1)
    kinds = [customer.files.get(data["file_url"]).headers["content-type"] for _ in range(2)]
    assert kinds == ["text/html; charset=utf-8", "image/png"]


def test_files_api_has_a_base_url_of_its_own(customer, server):
    headers = {"authorization": "Bearer any"}
    answer = httpx.get(f"{server.files_url}/api/v1/files/quota", headers=headers, trust_env=False)
    assert answer.json()["data"]["max_files"] == 100
    keyless = httpx.get(f"{server.files_url}/api/v1/files/quota", trust_env=False)
    assert keyless.json()["code"] == 401
    assert httpx.get(f"{server.files_url}/v1/credits", headers=headers, trust_env=False).status_code == 404


def test_reset_removes_the_files_from_disk(customer):
    uploaded(customer)
    location = customer.state.uploads.of(customer.state.account("default").id)[0].location
    assert location.is_file()
    customer.control("POST", "reset")
    assert not location.parent.exists()


def test_first_uploads_at_the_same_time_all_stay(monkeypatch):
    files, make, lock = uploads.Uploads(Names()), tempfile.TemporaryDirectory, CrowdedLock(8)

    def make_while_others_come(**options):
        lock.wait_for_all()
        return make(**options)

    monkeypatch.setattr(files, "_making_directory", lock)
    monkeypatch.setattr(tempfile, "TemporaryDirectory", make_while_others_come)
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(files.keep, [io.BytesIO(b"an image") for _ in range(8)]))
    assert [file.read_bytes() for file in kept] == [b"an image"] * 8
    files.close()
    assert not any(file.exists() for file in kept)
