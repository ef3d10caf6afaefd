"""Only files below the listed roots are shown, whatever an XCom says."""

from pathlib import Path

import pytest

from airflow_provider_evoimage.plugins.roots import ImageRoots, NotShownError

ROOTS = ImageRoots.read('["file:///data/images", "s3://shop@bucket/campaign", "gs://open"]')


@pytest.mark.parametrize(
    "url",
    [
        "file:///data/images/a.png",
        "FILE:///data/images/dag/run+1/a b.png",
        "/data/images/a.png",
        "s3://shop@bucket/campaign/x/y.webp",
        "gs://open/anything.png",
    ],
)
def test_files_below_a_root_are_shown(url: str):
    assert ROOTS.shows(url)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "file:///data/images",
        "file:///data/images-other/a.png",
        "file:///data/images/../secret.png",
        "file:///data/images/x/../../secret.png",
        "file:///data/images/./a.png",
        "file:////data/images/../a.png",
        "file://host/data/images/a.png",
        "file:data/images/a.png",
        "data/images/a.png",
        "local://data/images/a.png",
        "file:///data/images/a.png\x00.txt",
        "file:///data/images\\..\\a.png",
        "s3://bucket/campaign/a.png",
        "s3://other@bucket/campaign/a.png",
        "s3://shop@bucket2/campaign/a.png",
        "s3a://shop@bucket/campaign/a.png",
        "s3://shop@bucket/campaign2/a.png",
        "s3://shop@bucket/a.png",
        "s3:///campaign/a.png",
        "https://evolink.ai/a.png",
        "http://169.254.169.254/latest/meta-data",
        "data:image/png;base64,AAAA",
        "ftp://open/a.png",
        "gs://open",
        "",
        None,
        ["file:///data/images/a.png"],
    ],
)
def test_nothing_else_is_shown(url: object):
    assert not ROOTS.shows(url)


def test_symbolic_link_out_of_a_root_is_not_followed(tmp_path: Path):
    root = tmp_path / "images"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"x")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    (root / "own.png").symlink_to(root / "there.png")
    roots = ImageRoots.read(f'["file://{root}"]')
    assert not roots.shows(f"file://{root}/link.png")
    assert not roots.shows(f"file://{root}/folder/secret.png")
    assert roots.shows(f"file://{root}/own.png")


def test_root_that_is_a_link_itself_is_fine(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "name").symlink_to(tmp_path / "real")
    assert ImageRoots.read(f'["file://{tmp_path}/name/"]').shows(f"file://{tmp_path}/name/a.png")


@pytest.mark.parametrize("setting", [None, "", "[]", "  "])
def test_no_root_is_the_default_and_shows_nothing(setting: str | None):
    roots = ImageRoots.read(setting)
    assert roots == ImageRoots(())
    with pytest.raises(NotShownError, match="image_roots") as refused:
        roots.location("file:///data/a.png")
    assert refused.value.status == 403


@pytest.mark.parametrize(
    "setting", ['["file:///"]', "[nonsense", '{"a": 1}', '["s3://"]', '["/data/../etc"]', "[5]"]
)
def test_unusable_root_is_named_and_lists_nothing(setting: str):
    roots = ImageRoots.read(setting)
    assert roots.roots == ()
    assert not roots.shows("file:///data/images/a.png")
    assert "[evoimage] image_roots" in roots.problems[0]


def test_one_url_stands_for_a_list():
    assert ImageRoots.read("s3://shop@bucket/campaign").shows("s3://shop@bucket/campaign/a.png")
